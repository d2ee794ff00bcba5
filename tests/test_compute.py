"""Work mapped over scenes: order, refusals as rows, the cache, and processes that die."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.errors import CGM2NetError, SceneError, WorkerError
from cgm2net.files import CACHE_DIR


def count_bytes(job: SceneJob, folder: Path) -> Facts:
    """Write the scene's bytes doubled; refuse empty files; leave a mark for every time that it really works."""
    content = job.inputs["optical"].read_bytes()
    (folder / "half.bin").write_bytes(content)
    with Path("worked.txt").open("a") as log:
        log.write(job.scene_id + "\n")
    if not content:
        raise SceneError(job.scene_id, "optical is empty")
    (folder / "double.bin").write_bytes(content * 2)
    return {"size": len(content), "share": 1 / 3, "by_band": {"B02": None}, "factor": job.parameters["factor"]}


def die(job: SceneJob, folder: Path) -> Facts:
    if job.scene_id == "s1":
        os._exit(1)
    return {}


def stumble(job: SceneJob, folder: Path) -> Facts:
    raise ZeroDivisionError("division by zero")


def refuse_until_there(job: SceneJob, folder: Path) -> Facts:
    if not Path("there").exists():
        raise SceneError(job.scene_id, "not there yet")
    return {}


@pytest.fixture
def jobs(workspace: Path) -> list[SceneJob]:
    """Four scenes out of order; s2 is empty."""
    found = []
    for name, content in {"s3": b"ccc", "s1": b"a", "s2": b"", "s0": b"zz"}.items():
        (workspace / f"{name}.bin").write_bytes(content)
        inputs = {"optical": workspace / f"{name}.bin"}
        found.append(SceneJob(scene_id=name, parameters={"factor": 2}, inputs=inputs))
    return found


def run(
    jobs: list[SceneJob],
    *,
    num_workers: int = 1,
    work: Callable[[SceneJob, Path], Facts] = count_bytes,
    stage: str = "count",
    out: str = "out",
) -> tuple[list[Facts], int]:
    return map_scenes(work, jobs, stage=stage, out_dir=Path(out), num_workers=num_workers)


def worked() -> list[str]:
    log = Path("worked.txt")
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


GOOD = {"accepted": True, "reason": "", "share": 1 / 3, "by_band": {"B02": None}, "factor": 2}
EXPECTED = [
    {"scene_id": "s3", "size": 3, **GOOD},
    {"scene_id": "s1", "size": 1, **GOOD},
    {"scene_id": "s2", "accepted": False, "reason": "optical is empty"},
    {"scene_id": "s0", "size": 2, **GOOD},
]


def test_results_come_in_the_order_of_the_jobs_and_refusals_are_rows(jobs: list[SceneJob]) -> None:
    assert run(jobs) == (EXPECTED, 0)
    assert sorted(path.as_posix() for path in Path("out").rglob("*.bin")) == [
        f"out/{scene}/{name}.bin" for scene in ("s0", "s1", "s3") for name in ("double", "half")
    ]
    assert Path("out/s3/double.bin").read_bytes() == b"cccccc"


def test_a_second_run_works_only_on_what_was_refused(jobs: list[SceneJob]) -> None:
    run(jobs)
    worked()
    assert run(jobs, out="again") == (EXPECTED, 3)
    assert worked() == ["s2"]
    assert Path("again/s0/double.bin").read_bytes() == b"zzzz"


def test_one_more_scene_costs_one_scene(jobs: list[SceneJob]) -> None:
    run([jobs[0], jobs[1]])
    worked()
    results, hits = run([jobs[0], jobs[3], jobs[1]])
    assert (hits, worked()) == (2, ["s0"])
    assert [facts["scene_id"] for facts in results] == ["s3", "s0", "s1"]


def test_whatever_the_result_depends_on_is_in_the_key(jobs: list[SceneJob]) -> None:
    job = jobs[0]
    path = job.inputs["optical"]
    run([job])
    worked()
    path.write_bytes(b"ccd")
    assert run([job])[1] == 0
    assert Path("out/s3/double.bin").read_bytes() == b"ccdccd"
    path.write_bytes(b"ccc")
    os.utime(path, (0, 0))
    assert run([job])[1] == 1  # the same bytes of another date
    other = SceneJob(scene_id="s3", parameters={"factor": 3}, inputs=job.inputs)
    assert run([other])[0][0]["factor"] == 3
    assert run([job], stage="other")[1] == 0
    renamed = SceneJob(scene_id="s4", parameters=job.parameters, inputs=job.inputs)
    assert run([renamed])[1] == 0
    assert worked() == ["s3", "s3", "s3", "s4"]


def test_a_refusal_is_asked_again(jobs: list[SceneJob]) -> None:
    refused = {"scene_id": "s3", "accepted": False, "reason": "not there yet"}
    assert run(jobs[:1], work=refuse_until_there) == ([refused], 0)
    Path("there").touch()
    assert run(jobs[:1], work=refuse_until_there) == ([{"scene_id": "s3", "accepted": True, "reason": ""}], 0)


def test_what_an_earlier_run_left_of_a_refused_scene_is_gone(jobs: list[SceneJob]) -> None:
    run(jobs[:1])
    jobs[0].inputs["optical"].write_bytes(b"")
    run(jobs[:1])
    assert not Path("out/s3").exists()


def test_two_processes_give_what_one_gives(jobs: list[SceneJob]) -> None:
    assert run(jobs, num_workers=2) == (EXPECTED, 0)
    assert sorted(worked()) == ["s0", "s1", "s2", "s3"]
    assert run(jobs, num_workers=1) == (EXPECTED, 3)
    assert Path("out/s3/double.bin").read_bytes() == b"cccccc"


def test_a_process_that_dies_is_told_with_stage_and_scene(jobs: list[SceneJob]) -> None:
    with pytest.raises(
        WorkerError, match=r"count: a process died .* at scene .*s1.* lower count\.num_workers"
    ) as caught:
        run(jobs[:3], work=die, num_workers=2)
    assert isinstance(caught.value, CGM2NetError)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_unforeseen_error_says_at_which_scene(jobs: list[SceneJob], num_workers: int) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(jobs[:2], work=stumble, num_workers=num_workers)
    assert caught.value.__notes__[0] in ("stage count, scene s3", "stage count, scene s1")
    assert not list(CACHE_DIR.rglob("facts.json"))


def test_without_jobs_there_is_nothing(workspace: Path) -> None:
    assert run([], num_workers=2) == ([], 0)
