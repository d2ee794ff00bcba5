"""What a `dvc.lock` says was made of what."""

from typing import Any

from cgm2net.trace.history import Lock


def stage(**kinds: dict[str, str]) -> dict[str, Any]:
    return {kind: [{"path": path, "md5": md5} for path, md5 in made.items()] for kind, made in kinds.items()}


def test_only_equal_hashes_link_in_a_lock() -> None:
    """After an interrupted `dvc repro` the lock holds new tiles beside a training on old ones."""
    stages = {
        "tile": stage(deps={"data": "d2", "tile.py": "c"}, outs={"tiles": "t2"}),
        "train": stage(deps={"tiles": "t1", "train.py": "c"}, outs={"model": "m1"}),
        "evaluate": stage(deps={"model": "m1"}, outs={"metrics": "e1"}),
    }
    lock = Lock(commit=None, stages=stages)
    assert lock.chain("t2") == {("data", "d2"), ("tile.py", "c"), ("tiles", "t2")}
    model = {("tiles", "t1"), ("train.py", "c"), ("model", "m1"), ("metrics", "e1")}
    assert lock.chain("m1") == model
    assert lock.chain("t1") == {("tiles", "t1"), ("model", "m1"), ("metrics", "e1")}
    assert lock.chain("nothing") == set()
