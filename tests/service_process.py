"""A server as a process of its own: started, waited for, killed and started again; its log is kept."""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import requests

READY_SECONDS = 300.0
"""How long a server may take: those that fill a database do it on two cores beside other tests."""

_T = TypeVar("_T")


def eventually(ask: Callable[[], _T | None], *, what: str, seconds: float = READY_SECONDS) -> _T:
    """Ask until the answer is neither None nor empty."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while True:
        if answer := ask():
            return answer
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        pause.wait(0.1)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> Callable[[], bool]:
    """Return what says whether a URL is answered with success."""

    def ask() -> bool:
        try:
            return requests.get(url, timeout=5).ok
        except requests.RequestException:
            return False

    return ask


class Service:
    """One server's process, and all processes that it starts."""

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], folder: Path, ready: Callable[[], bool],
        user: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.log = folder / f"{name}.log"
        self._command, self._env, self._folder, self._ready = list(command), dict(env), folder, ready
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it, and do not wait."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, user=self._user,
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until it can be used."""
        process = self._process
        assert process is not None

        def ready() -> bool:
            assert process.poll() is None, f"{self.name} ended with {process.returncode}:\n{self.tail()}"
            return self._ready()

        eventually(ready, what=f"{self.name} is ready")

    def start(self) -> None:
        """Start it, and wait until it can be used."""
        self.launch()
        self.wait()

    def kill(self) -> None:
        """End it as a power cut would, with all that it started; those may have groups of their own."""
        if self._process is None:
            return
        try:
            main = psutil.Process(self._process.pid)
            victims = [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            victims = []
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self._process.wait()
        self._process = None
        eventually(lambda: not any(map(_alive, victims)), what=f"{self.name} is gone", seconds=30)

    def tail(self, num_lines: int = 30) -> str:
        """Return the last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-num_lines:])


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # a container's init may not reap
    except psutil.NoSuchProcess:
        return False
