"""A file server on loopback that misbehaves as planned, and notes what it is asked for."""

import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

BLOCK = 64 << 10
CONTENT = np.random.default_rng(0).bytes(10 * BLOCK + 123)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Hold:
    """A place in the file at which bodies stop."""

    at: int
    "Byte before which the server waits, in every body that reaches it, until `go_on` is set."
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass
class Plan:
    """What the server does, and what it was asked."""

    ranges: str = "served"
    "`served`, `ignored` (whole files with 200), `denied` (ignored, and said so) or `early` (from one byte before)."
    length: bool = True
    "Whether answers say how long they are."
    fail_with: list[int] = field(default_factory=list)
    "Status of the next answers."
    cut: int = 0
    "Bodies of which only the first half is sent,"
    cut_from: int = 0
    "those that begin at this byte or later."
    hold: Hold | None = None
    disk: Callable[[], int] = int
    "Looked at whenever a body is begun; its answers stand in `on_disk`."
    etag: str = "v1"
    content: bytes = CONTENT
    asked: list[tuple[int, int]] = field(default_factory=list)
    "First byte and number of bytes of every body begun."
    on_disk: list[int] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    "`If-Range` of every request, or nothing."
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of one file at any path; `/moved` leads to another address each time, `/gone` to nothing."""

    protocol_version = "HTTP/1.1"
    plan: Plan

    def setup(self) -> None:
        # What waits in the system's buffers is sent but has not arrived: little of it, that kills may find progress.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        plan = self.plan
        if self.path.startswith("/gone"):
            return self.bare(404)
        if plan.fail_with:
            return self.bare(plan.fail_with.pop(0))
        if self.path.startswith("/moved"):
            return self.bare(302, location=f"/a.tif?signature={os.urandom(4).hex()}")
        start, stop = 0, len(plan.content)
        plan.conditions.append(self.headers.get("If-Range", ""))
        if plan.ranges in ("served", "early") and "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
            start -= plan.ranges == "early"
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(plan.content)}")
        else:
            self.send_response(200)
        if plan.ranges == "denied":
            self.send_header("Accept-Ranges", "none")
        self.send_header("ETag", plan.etag)
        self.send_header(*(("Content-Length", str(stop - start)) if plan.length else ("Connection", "close")))
        self.end_headers()
        if body:
            self.send(start, stop)
        return None

    def bare(self, status: int, *, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if location:
            self.send_header("Location", location)
        self.end_headers()

    def send(self, start: int, stop: int) -> None:
        plan = self.plan
        plan.on_disk.append(plan.disk())
        plan.asked.append((start, stop - start))
        if plan.cut and start >= plan.cut_from:
            plan.cut -= 1
            stop = start + (stop - start) // 2
            self.close_connection = True
        hold = plan.hold
        try:
            if hold is not None and start <= hold.at < stop:
                self.wfile.write(plan.content[start : hold.at])
                hold.held.set()
                hold.go_on.wait(60)
                start = hold.at
            self.wfile.write(plan.content[start:stop])
        except (BrokenPipeError, ConnectionResetError):  # the asker was killed, or has read enough
            self.close_connection = True


@contextmanager
def serve(plan: Plan) -> Iterator[None]:
    """Run the server; sets the plan's address."""
    handler = type("PlannedHandler", (Handler,), {"plan": plan})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        plan.url = f"http://127.0.0.1:{running.server_port}"
        yield
        if plan.hold is not None:
            plan.hold.go_on.set()
        running.shutdown()
        thread.join()
