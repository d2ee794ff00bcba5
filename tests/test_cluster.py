"""Scenes mapped over a real Dask cluster: a scheduler and two workers, each a process; one of them is killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from cgm2net import cluster as module
from cgm2net.__main__ import main
from cgm2net.catalog import write_catalog
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.synthetic import sample_catalog
from cgm2net.errors import SceneError, WorkerError

HERE = Path(__file__).parent


def copy_scene(job: SceneJob, folder: Path) -> Facts:
    """Copy the scene's bytes and say who did it; the first worker that meets a trap dies of it."""
    content = job.inputs["optical"].read_bytes()
    if content == b"trap":
        try:
            Path("sprung").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), 9)
    if content == b"pit":
        os.kill(os.getpid(), 9)
    if not content:
        raise SceneError(job.scene_id, "optical is empty")
    (folder / "copy.bin").write_bytes(content)
    return {"size": len(content)}


class Cluster:
    """A scheduler and its workers, on loopback."""

    def __init__(self, stack: ExitStack, *, sources: Path | None = None) -> None:
        self._stack = stack
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(sources or HERE),
            "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
        }
        self.address = self._start(
            ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"], "Scheduler at:"
        )

    def add_worker(self) -> None:
        self._start(
            ["worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"],
            "Registered to:",
        )

    def _start(self, arguments: list[str], until: str) -> str:
        """Start a process; return the last word of the line in which it says so."""
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd="/",
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        assert process.stderr is not None
        self._stack.enter_context(process.stderr)
        for line in process.stderr:
            if until in line:
                return line.split()[-1]
        raise AssertionError(f"dask {arguments[0]} ended without {until!r}")


@pytest.fixture
def cluster(workspace: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        made = Cluster(stack)
        made.add_worker()
        made.add_worker()
        yield made


def jobs(workspace: Path, contents: list[bytes]) -> list[SceneJob]:
    made = []
    for number, content in enumerate(contents):
        path = workspace / f"s{number}.bin"
        path.write_bytes(content)
        made.append(SceneJob(scene_id=f"s{number}", parameters={}, inputs={"optical": path}))
    return made


def run(work: list[SceneJob], address: str) -> tuple[list[Facts], int]:
    return map_scenes(copy_scene, work, stage="copy", out_dir=Path("out"), num_workers=1, cluster=address)


def test_a_cluster_gives_what_one_process_gives_though_a_worker_is_killed(cluster: Cluster, workspace: Path) -> None:
    work = jobs(workspace, [b"a", b"bb", b"trap", b"", b"eeeee"])
    results, _ = run(work, cluster.address)
    assert Path("sprung").exists()  # a worker did die
    assert [(facts["scene_id"], facts.get("size"), facts["accepted"]) for facts in results] == [
        ("s0", 1, True), ("s1", 2, True), ("s2", 4, True), ("s3", None, False), ("s4", 5, True),
    ]  # fmt: skip
    assert results[3]["reason"] == "optical is empty"
    assert Path("out/s4/copy.bin").read_bytes() == b"eeeee"
    again, hits = map_scenes(copy_scene, work, stage="copy", out_dir=Path("out"), num_workers=1)
    assert (again, hits) == (results, 4)  # one cache for both; what was refused is asked again


def test_one_address_in_the_settings_sends_a_stage_to_the_cluster(cluster: Cluster, workspace: Path) -> None:
    params = yaml.safe_load((HERE.parent / "params.yaml").read_text())
    params["download"]["num_workers"] = 1
    rows = sample_catalog(num_regions=3, scenes_per_region=1, size_px=64, seed=0)
    for name, address in (("alone", ""), ("cluster", cluster.address)):
        (workspace / name / "data").mkdir(parents=True)
        os.chdir(workspace / name)
        write_catalog(pd.DataFrame(rows), Path("data/catalog.csv"))
        Path("params.yaml").write_text(yaml.safe_dump({**params, "cluster": address}))
        result = CliRunner().invoke(main, ["download"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert f"found={len(rows)}" in result.output
    alone, together = (
        {path.relative_to(workspace / name): path.read_bytes() for path in sorted((workspace / name).rglob("*.tif"))}
        for name in ("alone/artifacts", "cluster/artifacts")
    )
    assert len(alone) > 3 * 4
    assert {str(name) for name in alone} == {str(name) for name in together}
    assert list(alone.values()) == list(together.values())


def test_a_scene_that_kills_every_worker_is_named(cluster: Cluster, workspace: Path) -> None:
    for _ in range(2):
        cluster.add_worker()
    with pytest.raises(WorkerError, match=r"copy: .*copy/s1.*workers died over it"):
        run(jobs(workspace, [b"a", b"pit"]), cluster.address)


def test_without_scheduler_or_workers_it_is_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS", 1)
    with pytest.raises(WorkerError, match=r"copy: no Dask scheduler answers at tcp://127\.0\.0\.1:1: .*params\.yaml"):
        run(jobs(workspace, [b"a"]), "tcp://127.0.0.1:1")
    with ExitStack() as stack:
        empty = Cluster(stack)
        with pytest.raises(WorkerError, match="has no worker"):
            run(jobs(workspace, [b"a"]), empty.address)


def test_workers_with_other_sources_are_refused(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "cgm2net"
    other.mkdir(parents=True)
    for name in ("__init__", "errors", "job", "files", "cluster", "compute"):
        (other / f"{name}.py").write_bytes((Path(module.__file__).parent / f"{name}.py").read_bytes())
    with ExitStack() as stack:
        cluster = Cluster(stack, sources=other.parent)
        cluster.add_worker()
        with pytest.raises(WorkerError, match="runs other sources of cgm2net"):
            run(jobs(workspace, [b"a"]), cluster.address)
