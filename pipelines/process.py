"""A command whose lines are handed on while it runs, and which does not outlive its caller.

Run by its path, ``python process.py COMMAND...``, this file is the guard between the two: it ends its whole process
group when its stdin closes, which happens even if the caller is killed with SIGKILL. So no stage goes on writing
outputs that nobody waits for, beside the next run.
"""

import codecs
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

Log = Callable[[str], object]

NUM_LAST_LINES = 20
"""Lines of a failed command that its error repeats."""

PROGRESS_SECONDS = 10.0
"""A progress bar is handed on at most this often [s]; it redraws itself many times a second."""

_LONGEST_WAIT_SECONDS = 1.0
_LINE_ENDS = re.compile(r"(?<=\n)|(?<=\r)(?=[^\n])")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def stream(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], sinks: Sequence[Log]) -> int:
    """Run a command; leaving by an exception ends it and all that it started.

    Args:
        command: program and arguments.
        cwd: folder to run it in.
        env: its whole environment.
        sinks: each receives each line of stdout and stderr as it comes, without colours.

    Returns:
        The exit status; not 0 if a signal ended it.
    """
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        for line in lines(_pieces(process.stdout.fileno())):
            for sink in sinks:
                sink(line)
        return process.wait()


def _pieces(descriptor: int) -> Iterator[str]:
    r"""Read text up to each ``\n``, or ``\r`` alone, as it comes.

    Never blocked for more than a second: Python runs signal handlers between its own instructions only, and a SIGTERM
    that came just before a blocking read would wait for the next line of a stage that may say nothing for hours.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending = ""
    while True:
        if not select.select([descriptor], [], [], _LONGEST_WAIT_SECONDS)[0]:
            continue
        block = os.read(descriptor, 1 << 16)
        pending += decoder.decode(block, final=not block)
        *whole, pending = _LINE_ENDS.split(pending)
        yield from whole
        if not block:
            yield pending
            return


def lines(output: Iterable[str]) -> Iterator[str]:
    r"""Split what a program writes into lines.

    Args:
        output: text with its line ends as written; ``\r`` ends a state of a line that is drawn anew.

    Yields:
        Lines that are not blank, without colours; of a line drawn anew, its last state and one every
        ``PROGRESS_SECONDS``.
    """
    shown = -PROGRESS_SECONDS
    for piece in output:
        line = _ESCAPES.sub("", piece).rstrip()
        drawn_anew = piece.endswith("\r")
        if not line or (drawn_anew and time.monotonic() - shown < PROGRESS_SECONDS):
            continue
        if drawn_anew:
            shown = time.monotonic()
        yield line


def _end_with_caller() -> None:
    os.read(0, 1)  # not sys.stdin: its lock, held here, would abort the interpreter at exit
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
