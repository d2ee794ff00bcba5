import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cgm2net.settings import Settings
from pipelines.process import lines
from pipelines.stages import DvcError, StageError, dvc, held, list_stages, missing_data, run_stage


def walk(root: Path) -> list[str]:
    return [run_stage(name, root=root, log=lambda _: None).result for name in ("prepare", "train", "register")]


def test_each_stage_comes_after_what_it_reads_however_declared(project: Path) -> None:
    assert list_stages(project) == ["data.dvc", "prepare", "train", "register"]


def test_a_folder_without_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(DvcError, match=r"no dvc\.yaml there; .*--root"):
        list_stages(tmp_path)


def test_dvc_refusing_the_project_is_told_in_its_words(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: {train: {outs: [a]}}")
    with pytest.raises(DvcError, match=r"(?s)dvc dag.*exit status.*cmd"):
        list_stages(project)


def test_ran_then_skipped_then_only_what_follows_a_change_then_restored(
    project: Path, change: Callable[..., None]
) -> None:
    assert walk(project) == ["ran", "ran", "ran"]
    assert walk(project) == ["skipped", "skipped", "skipped"]
    change("train", pixels=2)
    assert walk(project) == ["skipped", "ran", "ran"]
    shutil.rmtree(project / "artifacts" / "train")
    assert run_stage("train", root=project, log=lambda _: None).result == "cached"
    assert "run2" in (project / "artifacts/train/run.json").read_text()
    assert run_stage("train", root=project, log=lambda _: None, force=True).result == "ran"


def test_new_pinned_data_are_taken_up_and_missing_ones_found(project: Path) -> None:
    (project / "data" / "catalog.csv").write_text("scene_id\na\nb\n")
    assert run_stage("data.dvc", root=project, log=lambda _: None).result == "ran"
    assert missing_data(["data.dvc", "prepare"], root=project) == []
    shutil.rmtree(project / "data")
    assert missing_data(["data.dvc", "prepare"], root=project) == ["data.dvc"]


def test_a_failed_stage_tells_its_last_lines(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="fail")
    with pytest.raises(StageError, match="no clear pixel in region north") as caught:
        run_stage("prepare", root=project, log=lambda _: None)
    assert (caught.value.result.stage, caught.value.result.result) == ("prepare", "failed")


def test_lines_arrive_while_the_stage_runs(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="wait")  # the stage fails unless the line it writes makes us create the file

    def log(line: str) -> None:
        if line == "waits for go":
            (project / "go").touch()

    assert run_stage("prepare", root=project, log=log).result == "ran"


def test_a_second_run_waits_for_the_stage_at_work(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="wait")
    told: list[str] = []

    def second(line: str) -> None:
        told.append(line)
        if "another DVC process works on the files of prepare" in line:
            (project / "go").touch()

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = []

        def first(line: str) -> None:
            if line == "waits for go":
                waiting.append(pool.submit(run_stage, "prepare", root=project, log=second))

        assert run_stage("prepare", root=project, log=first).result == "ran"
        assert waiting[0].result().result == "skipped"
    assert any("another DVC process" in line for line in told)


def test_a_line_drawn_anew_is_thinned_out_and_colours_are_removed() -> None:
    text = "  5%|#   |\r 50%|##  |\r100%|####|\n\n\x1b[32mgreen\x1b[0m\r\nlast"
    assert list(lines(io.StringIO(text, newline=""))) == ["  5%|#   |", "100%|####|", "green", "last"]


def test_leaving_by_an_exception_ends_the_stage(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="hang")
    os.mkfifo(project / "alive")

    def log(line: str) -> None:
        if line.startswith("Stage"):  # the stage's own first line
            with (project / "alive").open() as alive:
                assert alive.readline() == "started\n"
                held.append(os.dup(alive.fileno()))
            raise KeyboardInterrupt

    held: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_stage("prepare", root=project, log=log)
    with os.fdopen(held[0]) as alive:  # its end is reached only when every process that holds it has died
        assert alive.read() == ""


def test_a_killed_caller_leaves_no_stage_behind(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="hang")
    os.mkfifo(project / "alive")  # read to its end only when every process that holds it has died
    code = "import sys, pathlib, pipelines.stages as s; s.run_stage('prepare', root=pathlib.Path(sys.argv[1]), log=id)"
    caller = subprocess.Popen([sys.executable, "-c", code, str(project)], cwd=Path(__file__).parents[2])
    with (project / "alive").open() as alive:
        assert alive.readline() == "started\n"
        caller.send_signal(signal.SIGKILL)
        assert alive.read() == ""
    assert caller.wait() == -signal.SIGKILL
    change("prepare", do="work")
    assert run_stage("prepare", root=project, log=lambda _: None).result == "ran"


def test_no_setting_is_called_what_dvc_leaves_out_of_its_run_cache() -> None:
    # DVC's run cache ignores params keys named "size" and "nfiles" at any depth: changing such a setting would
    # restore the outputs of its former value. dvc.utils.dict_filter as called by dvc.stage.cache._get_cache_hash
    sections = (field.annotation for field in Settings.model_fields.values())
    names = {name for section in sections for name in getattr(section, "model_fields", {})}
    assert names.isdisjoint({"size", "nfiles"})
    assert "learning_rate" in names


def test_data_are_changed_only_when_no_stage_reads_them(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="wait")
    told: list[str] = []

    def waiting(line: str) -> None:
        told.append(line)
        (project / "go").touch()  # the stage ends now, and not before

    def hold() -> bool:
        with held(project / "data", root=project, log=waiting):
            return (project / "artifacts/prepare/scenes.json").is_file()

    with ThreadPoolExecutor(max_workers=1) as pool:
        threads = []

        def first(line: str) -> None:
            if line == "waits for go":
                threads.append(pool.submit(hold))

        assert run_stage("prepare", root=project, log=first).result == "ran"
        assert threads[0].result(), "the stage had not ended"
    assert "another DVC process works on the files of" in told[0]


def test_pinning_waits_for_the_stage_that_reads_the_data(project: Path, change: Callable[..., None]) -> None:
    change("prepare", do="wait")
    told: list[str] = []

    def waiting(line: str) -> None:
        told.append(line)
        if "another DVC process" in line:
            (project / "go").touch()

    with ThreadPoolExecutor(max_workers=1) as pool:
        threads = []

        def first(line: str) -> None:
            if line == "waits for go":
                threads.append(pool.submit(dvc, "add", "data", root=project, log=waiting))

        assert run_stage("prepare", root=project, log=first).result == "ran"
        threads[0].result()
    assert any("another DVC process works on the files of add data" in line for line in told)
