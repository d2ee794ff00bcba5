"""The fetcher against real servers on loopback: what arrives, what is asked for, what is left behind."""

import hashlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from file_server import BLOCK, CONTENT, SHA256, Hold, Plan, serve

from cgm2net.data import fetch as module
from cgm2net.data import synthetic
from cgm2net.data.fetch import fetch, file_suffix, identity
from cgm2net.errors import ChecksumError, FetchError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Plan]:
    """A running server that looks at what has reached the disk; blocks are small, so that a file takes several."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", BLOCK)
    plan = Plan(disk=on_disk)
    with serve(plan):
        yield plan


def get(uri: str, *, sha256: str = "", max_attempts: int = 1) -> str:
    return fetch(uri, Path("out/a.tif"), sha256=sha256, max_attempts=max_attempts, wait_seconds=0)


def leftovers() -> list[Path]:
    """Return unfinished files."""
    return [path for path in module.PARTIAL_DIR.glob("*") if path.suffix != ".lock"]


def on_disk() -> int:
    """Return the bytes of the unfinished file."""
    return sum(path.stat().st_size for path in leftovers())


def test_bytes_arrive_and_none_is_asked_for_twice(server: Plan) -> None:
    assert get(f"{server.url}/a.tif", sha256=SHA256.upper()) == SHA256
    assert Path("out/a.tif").read_bytes() == CONTENT
    assert server.asked == [(0, len(CONTENT))]
    assert leftovers() == []


def test_progress_is_told_to_the_last_byte(server: Plan) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(f"{server.url}/a.tif", Path("out/a.tif"), on_progress=lambda arrived, size: told.append((arrived, size)))
    arrived = [number for number, _ in told]
    assert arrived == sorted(set(arrived))
    assert told[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("ranges", ["ignored", "denied"])
def test_a_server_without_ranges_is_read_as_a_stream(server: Plan, ranges: str) -> None:
    server.ranges = ranges
    assert get(f"{server.url}/a.tif") == SHA256


@pytest.mark.parametrize("ranges", ["ignored", "denied"])
def test_a_cut_stream_begins_anew(server: Plan, ranges: str) -> None:
    server.ranges, server.cut = ranges, 3
    assert get(f"{server.url}/a.tif", max_attempts=4) == SHA256


def test_a_server_that_tells_no_length(server: Plan) -> None:
    server.ranges, server.length = "denied", False
    assert get(f"{server.url}/a.tif") == SHA256


def test_an_empty_file_is_a_file(server: Plan) -> None:
    server.content = b""
    assert get(f"{server.url}/a.tif") == hashlib.sha256(b"").hexdigest()


def test_a_transfer_that_breaks_goes_on_where_it_stopped(server: Plan) -> None:
    server.cut = 2
    assert get(f"{server.url}/a.tif", max_attempts=3) == SHA256
    assert [start for start, _ in server.asked] == server.on_disk
    half = len(CONTENT) // 2
    assert server.on_disk == [0, half, half + (len(CONTENT) - half) // 2]  # all that arrived


def test_a_range_that_begins_elsewhere_is_not_sewn_on(server: Plan) -> None:
    server.cut = 1
    with pytest.raises(FetchError, match="not fetched in 1 tries"):
        get(f"{server.url}/a.tif")
    kept, server.ranges = on_disk(), "early"
    with pytest.raises(FetchError, match=rf"asked for bytes from {kept} on, got them from {kept - 1} on"):
        get(f"{server.url}/a.tif")
    server.ranges = "served"
    assert get(f"{server.url}/a.tif") == SHA256


def test_a_range_is_asked_for_of_the_version_that_was_begun(server: Plan) -> None:
    server.cut, server.etag = 1, '"v1"'
    assert get(f"{server.url}/a.tif", max_attempts=2) == SHA256
    assert [condition for condition in server.conditions if condition] == ['"v1"']
    server.cut, server.etag = 1, 'W/"v2"'  # weak: no promise about bytes
    assert get(f"{server.url}/a.tif", max_attempts=2) == SHA256
    assert [condition for condition in server.conditions if condition] == ['"v1"']


def test_only_what_is_missing_is_asked_for(server: Plan) -> None:
    uri = f"{server.url}/a.tif"
    store = module._open_store(uri)
    partial = module.PARTIAL_DIR / module._version(uri, module._known(*store))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[: 3 * BLOCK + 7])
    assert get(uri) == SHA256
    assert server.asked[0][0] == 3 * BLOCK + 7
    assert sum(length for _, length in server.asked) == len(CONTENT) - 3 * BLOCK - 7


def test_a_partial_file_of_another_version_is_not_gone_on_with(server: Plan) -> None:
    uri = f"{server.url}/a.tif"
    partial = module.PARTIAL_DIR / module._version(uri, module._known(*module._open_store(uri)))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"old" * BLOCK)
    server.etag = "v2"
    assert get(uri) == SHA256
    assert server.asked[0][0] == 0


def test_a_server_that_dies_three_times_is_asked_a_fourth(server: Plan, caplog: pytest.LogCaptureFixture) -> None:
    server.cut = 3
    with caplog.at_level(logging.WARNING):
        assert get(f"{server.url}/a.tif", max_attempts=4) == SHA256
    assert [record.getMessage().split(" failed")[0].split("a.tif: ")[1] for record in caplog.records] == [
        f"try {n} of 4" for n in (1, 2, 3)
    ]


def test_after_the_last_try_the_error_tells_it_and_the_next_run_goes_on(server: Plan) -> None:
    server.cut = 2
    with pytest.raises(
        FetchError, match=r"a\.tif: not fetched in 2 tries: .*; what arrived is kept, run again to go on"
    ):
        get(f"{server.url}/a.tif", max_attempts=2)
    assert not Path("out/a.tif").exists()
    assert get(f"{server.url}/a.tif") == SHA256


def test_waits_are_doubled_up_to_a_minute(server: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.cut = 100
    with pytest.raises(FetchError, match="in 9 tries"):
        fetch(f"{server.url}/a.tif", Path("out/a.tif"), max_attempts=9, wait_seconds=0.5)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60]


@pytest.mark.parametrize("ask", [get, identity])
def test_what_is_not_given_out_is_not_asked_for_again(server: Plan, ask: Callable[[str], str]) -> None:
    server.fail_with = [403] * 4
    with pytest.raises(PermissionError):
        ask(f"{server.url}/a.tif")
    Path("folder").mkdir()
    with pytest.raises(IsADirectoryError):
        ask(f"file://{Path('folder').resolve()}")


def test_an_escaped_file_uri_is_unescaped(workspace: Path) -> None:
    (workspace / "with space.tif").write_bytes(CONTENT)
    assert get(f"file://{workspace}/with%20space.tif") == SHA256


@pytest.mark.parametrize("ask", [get, identity])
def test_what_is_not_there_is_not_asked_for_again(server: Plan, ask: object, caplog: pytest.LogCaptureFixture) -> None:
    assert callable(ask)
    with pytest.raises(FileNotFoundError):
        ask(f"{server.url}/gone.tif", max_attempts=4)
    assert caplog.records == []


def test_a_busy_server_is_not_taken_for_an_absent_file(server: Plan) -> None:
    server.fail_with = [503] * 4  # two tries of HEAD and GET each
    assert get(f"{server.url}/a.tif", max_attempts=3) == SHA256
    server.fail_with = [503] * 4
    assert identity(f"{server.url}/a.tif", max_attempts=3, wait_seconds=0)
    server.fail_with = [503] * 4
    with pytest.raises(FetchError, match=r"not fetched in 2 tries: 503"):
        get(f"{server.url}/a.tif", max_attempts=2)


def test_an_unreachable_server_is_not_taken_for_an_absent_file(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FetchError, match="not fetched in 2 tries: Cannot connect"):
        get(f"http://127.0.0.1:{port}/a.tif", max_attempts=2)


def test_another_file_than_the_catalogue_names_is_not_kept(server: Plan) -> None:
    with pytest.raises(ChecksumError, match=rf"a\.tif: SHA-256 is {SHA256}, the catalogue says 0+; correct"):
        get(f"{server.url}/a.tif", sha256="0" * 64)
    assert not Path("out/a.tif").exists()
    assert leftovers() == []


def test_identity_is_of_the_content_not_of_the_address_that_redirects_lead_to(server: Plan) -> None:
    uri = f"{server.url}/moved.tif"
    before = identity(uri)
    assert identity(uri) == before
    assert get(uri) == SHA256
    server.etag = "v2"
    assert identity(uri) != before
    assert server.asked[0][0] == 0
    assert identity("synthetic:sar?region=1&date=2024-05-01") == "synthetic:sar?region=1&date=2024-05-01"


def test_two_scenes_that_name_one_file_do_not_mix_it(server: Plan) -> None:
    uri = f"{server.url}/a.tif"
    with ThreadPoolExecutor(4) as pool:
        targets = [Path(f"out/{k}.tif") for k in range(4)]
        hashes = list(pool.map(lambda target: fetch(uri, target, max_attempts=1, wait_seconds=0), targets))
    assert set(hashes) == {SHA256}


def fetch_in_child(uri: str) -> None:
    get(uri)


def killed_at(server: Plan, byte: int) -> int:
    """Kill a child that fetches once this byte is the next to be sent; return how many then are on the disk."""
    # Children are forked off one that has imported everything, and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cgm2net.data.fetch"])
    hold = server.hold = Hold(at=byte)
    child = context.Process(target=fetch_in_child, args=(f"{server.url}/a.tif",))
    child.start()
    assert hold.held.wait(60)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    hold.go_on.set()
    return on_disk()


def test_a_transfer_killed_twenty_times_at_random_asks_for_no_byte_on_the_disk_again(server: Plan) -> None:
    server.content = random.Random(1).randbytes(8 << 20)
    places = sorted(random.Random(2).sample(range(len(server.content)), 20))
    kept = [killed_at(server, byte) for byte in places]
    assert not Path("out/a.tif").exists()
    server.hold = None
    assert get(f"{server.url}/a.tif") == hashlib.sha256(server.content).hexdigest()
    assert Path("out/a.tif").read_bytes() == server.content
    begun = [start for start, _ in server.asked]
    assert len(begun) == 21
    assert begun == server.on_disk == [0, *kept]
    assert kept == sorted(kept)
    assert len(set(kept)) > 3  # enough of them found progress


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_local_files_are_copied(workspace: Path, scheme: str) -> None:
    source = workspace / "a #1%.tif"
    source.write_bytes(CONTENT)
    before = identity(f"{scheme}{source}")
    assert get(f"{scheme}{source}", sha256=SHA256) == SHA256
    assert source.read_bytes() == Path("out/a.tif").read_bytes()
    source.write_bytes(CONTENT + b"1")
    assert identity(f"{scheme}{source}") != before
    assert get(f"{scheme}{source}") == hashlib.sha256(CONTENT + b"1").hexdigest()
    source.unlink()
    for ask in (identity, get):
        with pytest.raises(FileNotFoundError):
            ask(f"{scheme}{source}")


def test_a_store_that_speaks_s3(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        store.pipe_file("bucket/a.tif", CONTENT)
        before = identity("s3://bucket/a.tif")
        assert identity("s3://bucket/a.tif") == before
        assert get("s3://bucket/a.tif", sha256=SHA256) == SHA256
        store.pipe_file("bucket/a.tif", CONTENT[::-1])
        assert identity("s3://bucket/a.tif") != before
        for ask in (identity, get):
            with pytest.raises(FileNotFoundError):
                ask("s3://bucket/b.tif")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        moto.stop()


def test_a_synthetic_file_is_rendered_and_checked(workspace: Path) -> None:
    uri = "synthetic:label?region=1&date=2024-05-01&size_px=64"
    digest = get(uri)
    synthetic.write(uri, Path("own.tif"))
    assert Path("own.tif").read_bytes() == Path("out/a.tif").read_bytes()
    with pytest.raises(ChecksumError):
        get(uri, sha256="0" * 64)
    assert get(uri, sha256=digest) == digest


def test_an_unknown_kind_of_uri_is_refused_at_once(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FetchError, match="teleport://a: no way to read this kind of URI"):
        get("teleport://a", max_attempts=4)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("uri", "suffix"),
    [
        ("https://h/a.TIF", ".tif"),
        ("https://h/a.jp2?token=x.npy", ".jp2"),
        ("/data/mask.npy", ".npy"),
        ("s3://b/a.zip", ".tif"),
        ("synthetic:sar?region=1", ".tif"),
    ],
)
def test_the_local_copy_keeps_a_known_suffix(uri: str, suffix: str) -> None:
    assert file_suffix(uri) == suffix
