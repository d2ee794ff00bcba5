"""Nothing half-written is ever found, and the cache gives back what was made."""

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgm2net import files
from cgm2net.files import cached_folder, sha256_file, sha256_json, write_aside, write_json

KEY = "ab" + "0" * 62


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_hashes_are_those_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_json({"b": 1, "a": [2]}) == sha256_json({"a": [2], "b": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_a_block_that_ends_well_leaves_one_file(tmp_path: Path) -> None:
    with write_aside(tmp_path / "new" / "a.txt") as aside:
        aside.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert everything(tmp_path) == ["new", "new/a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path, as_folder: bool) -> None:
    (tmp_path / "a").write_text("old")

    def fail() -> None:
        with write_aside(tmp_path / "a") as aside:
            if as_folder:
                aside.mkdir()
            (aside / "part" if as_folder else aside).write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert everything(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_json_is_sorted_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "ü"})
    assert files.read_json(tmp_path / "a.json") == {"a": "ü", "b": 1}
    assert (tmp_path / "a.json").read_text().index('"a"') < (tmp_path / "a.json").read_text().index('"b"')
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert files.read_json(tmp_path / "a.json") == {"a": "ü", "b": 1}
    assert everything(tmp_path) == ["a.json"]


def test_numbers_of_arrays_stay_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": np.int64(3), "x": np.float32(0.5), "path": Path("a/b")})
    assert files.read_json(tmp_path / "a.json") == {"n": 3, "x": 0.5, "path": "a/b"}


class Make:
    """Writes two files and counts how often."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        self.facts, self.calls = facts, 0

    def __call__(self, folder: Path) -> Mapping[str, object]:
        self.calls += 1
        (folder / "deep").mkdir()
        (folder / "a.bin").write_bytes(b"\x00\x01")
        (folder / "deep" / "b.txt").write_text("b")
        return self.facts


def test_a_second_call_makes_nothing(tmp_path: Path) -> None:
    make = Make({"n": 1})
    first = cached_folder(KEY, tmp_path / "one", make, cache_dir=tmp_path / "cache")
    second = cached_folder(KEY, tmp_path / "two", make, cache_dir=tmp_path / "cache")
    assert (first, second) == (({"n": 1}, False), ({"n": 1}, True))
    assert make.calls == 1
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert everything(folder) == ["a.bin", "deep", "deep/b.txt"]
        assert (folder / "a.bin").read_bytes() == b"\x00\x01"
    cached_folder("cd" + KEY[2:], tmp_path / "three", make, cache_dir=tmp_path / "cache")
    assert make.calls == 2


def test_what_lies_in_the_folder_is_replaced_and_the_cache_is_a_copy(tmp_path: Path) -> None:
    make = Make({})
    for _ in range(2):
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / "old").write_text("old")
        cached_folder(KEY, tmp_path / "one", make, cache_dir=tmp_path / "cache")
        assert everything(tmp_path / "one") == ["a.bin", "deep", "deep/b.txt"]
        (tmp_path / "one" / "a.bin").write_bytes(b"changed by the user")
    cached_folder(KEY, tmp_path / "one", make, cache_dir=tmp_path / "cache")
    assert (tmp_path / "one" / "a.bin").read_bytes() == b"\x00\x01"
    os.chmod(tmp_path / "one" / "a.bin", 0o444)  # noqa: PTH101 - as DVC does with what it tracks
    cached_folder(KEY, tmp_path / "one", make, cache_dir=tmp_path / "cache")
    assert make.calls == 1


def test_without_files_there_is_no_folder(tmp_path: Path) -> None:
    for hit in (False, True):
        assert cached_folder(KEY, tmp_path / "one", lambda _: {"n": 0}, cache_dir=tmp_path / "c") == ({"n": 0}, hit)
        assert not (tmp_path / "one").exists()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30)
@given(facts=st.dictionaries(st.text(), values, max_size=4))
def test_facts_are_the_same_made_or_found(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, object]) -> None:
    cache = tmp_path_factory.mktemp("cache")
    made, _ = cached_folder(KEY, cache / "one", lambda _: facts, cache_dir=cache)
    found, hit = cached_folder(KEY, cache / "one", lambda _: facts, cache_dir=cache)
    assert hit
    assert repr(made) == repr(found)  # NaN is not equal to itself
    assert json.dumps(made) == json.dumps(json.loads(json.dumps(facts, sort_keys=True)))


def test_facts_that_json_cannot_hold_leave_no_entry(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        cached_folder(KEY, tmp_path / "one", lambda _: {"a": object()}, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*facts.json"))
    assert not (tmp_path / "one").exists()


def test_an_exception_leaves_no_entry(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, object]:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached_folder(KEY, tmp_path / "one", fail, cache_dir=tmp_path / "cache")
    assert everything(tmp_path / "cache") == ["ab"]
    assert cached_folder(KEY, tmp_path / "one", Make({}), cache_dir=tmp_path / "cache") == ({}, False)


def test_an_entry_without_facts_is_made_again(tmp_path: Path) -> None:
    torn = tmp_path / "cache" / "ab" / KEY
    torn.mkdir(parents=True)
    (torn / "half").write_text("half")
    assert cached_folder(KEY, tmp_path / "one", Make({"n": 1}), cache_dir=tmp_path / "cache") == ({"n": 1}, False)
    assert everything(tmp_path / "one") == ["a.bin", "deep", "deep/b.txt"]


def make_in_child(tmp_path: Path, name: str, begun: Event, go_on: Event) -> None:
    def make(folder: Path) -> Mapping[str, object]:
        (folder / "a.bin").write_bytes(b"\x00")
        begun.set()
        assert go_on.wait(30)
        (folder / "b.bin").write_bytes(b"\x01")
        return {"name": "same"}

    cached_folder(KEY, tmp_path / name, make, cache_dir=tmp_path / "cache")


def test_a_killed_make_leaves_no_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begun, go_on = context.Event(), context.Event()
    child = context.Process(target=make_in_child, args=(tmp_path, "one", begun, go_on))
    child.start()
    assert begun.wait(60)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert not (tmp_path / "one").exists()
    make = Make({"n": 1})
    assert cached_folder(KEY, tmp_path / "one", make, cache_dir=tmp_path / "cache") == ({"n": 1}, False)
    assert everything(tmp_path / "one") == ["a.bin", "deep", "deep/b.txt"]


def test_two_processes_on_one_key_both_succeed(tmp_path: Path) -> None:
    """The child is inside `make` while this process makes the same, finishes, and goes on reading it."""
    context = multiprocessing.get_context("spawn")
    begun, go_on = context.Event(), context.Event()
    child = context.Process(target=make_in_child, args=(tmp_path, "one", begun, go_on))
    child.start()
    assert begun.wait(60)

    def make(folder: Path) -> Mapping[str, object]:
        (folder / "a.bin").write_bytes(b"\x00")
        (folder / "b.bin").write_bytes(b"\x01")
        return {"name": "same"}

    cached_folder(KEY, tmp_path / "two", make, cache_dir=tmp_path / "cache")
    entry = tmp_path / "cache" / "ab" / KEY
    first = (entry / "a.bin").stat().st_ino
    go_on.set()
    child.join(30)
    assert child.exitcode == 0
    assert everything(tmp_path / "one") == everything(tmp_path / "two") == ["a.bin", "b.bin"]
    assert (entry / "a.bin").stat().st_ino == first  # never taken away under a reader
    assert everything(tmp_path / "cache" / "ab") == sorted([KEY, f"{KEY}/a.bin", f"{KEY}/b.bin", f"{KEY}/facts.json"])


def test_the_code_hash_covers_the_imported_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = files.code_hash()
    assert before == files.code_hash()
    changed = tmp_path / "files.py"
    changed.write_text(Path(files.__file__).read_text() + "\n")
    monkeypatch.setattr(files, "__file__", str(changed))
    assert files.code_hash() != before
