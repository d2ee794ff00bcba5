"""The library's own commands, run beside the flow, whose process needs no torch and no mlflow then."""

import os
import sys
from collections import deque
from pathlib import Path

from cgm2net.errors import CGM2NetError
from pipelines.process import NUM_LAST_LINES, Log, stream


class CommandError(CGM2NetError, RuntimeError):
    """A command of the library failed; the message holds its last lines."""


def run_library(*arguments: str, root: Path, log: Log, cwd: Path | None = None) -> None:
    """Run ``python -m cgm2net``.

    Args:
        arguments: the command and its options.
        root: the project, whose library runs where it has one.
        log: receives each line as it comes.
        cwd: folder to run in; the project by default.

    Raises:
        CommandError: if it fails.
    """
    lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "cgm2net", *arguments]
    if code := stream(command, cwd=cwd or root, env=env, sinks=(log, lines.append)):
        raise CommandError("\n".join([f"`cgm2net {' '.join(arguments[:2])}` ended with status {code}", *lines]))
