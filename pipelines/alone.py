"""One flow run at a time in a folder, whichever process or machine's scheduler started it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cgm2net.errors import CGM2NetError
from pipelines.process import Log

IfBusy = Literal["wait", "skip"]
"""What a run does while another one of its kind works on the same project."""

_PAUSE_SECONDS = 0.5


class TakenError(CGM2NetError, RuntimeError):
    """Another run works in the folder, and this one shall not wait for it."""


@contextmanager
def alone(folder: Path, *, log: Log, if_busy: IfBusy = "wait") -> Iterator[None]:
    """Hold a folder for this process.

    The lock is the kernel's: it ends with the process that holds it, even at SIGKILL, and commands that the process
    has started do not inherit it.

    Args:
        folder: made if need be; gets a file ``lock``.
        log: is told of the waiting.
        if_busy: wait while another process has it, or give up at once.

    Raises:
        TakenError: if another process has it and ``if_busy`` says to skip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if not _locked(lock.fileno()):
            if if_busy == "skip":
                raise TakenError(f"another run works in {folder}; this one was told to skip then")
            log(f"another run works in {folder}: waiting for its end")
            # Asked again and again instead of blocking: a signal that comes just before a blocking call is lost on it.
            while not _locked(lock.fileno()):
                time.sleep(_PAUSE_SECONDS)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
