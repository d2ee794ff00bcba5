"""Lineage: commit and dirtiness, hashes of the pins, and what stands there when a fact cannot be had."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from cgm2net.lineage import git_facts, lineage_tags


def _git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n  path: data\n")
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "one")
    return root


def test_clean_tree_names_its_commit(project: Path) -> None:
    assert git_facts(project) == {"git_commit": _git(project, "rev-parse", "HEAD"), "git_dirty": "false"}


@pytest.mark.parametrize("name", ["params.yaml", "cgm2net_new.py"])
def test_changed_or_new_file_is_dirty(project: Path, name: str) -> None:
    (project / name).write_text("changed\n")
    assert git_facts(project)["git_dirty"] == "true"


def test_what_the_pipeline_writes_is_not_dirt(project: Path) -> None:
    (project / "dvc.lock").write_text("other\n")
    (project / "artifacts/train").mkdir(parents=True)
    (project / "artifacts/train/metrics.json").write_text("{}")
    assert git_facts(project)["git_dirty"] == "false"


def test_staged_files_count(project: Path) -> None:
    (project / "new.py").write_text("x = 1\n")
    _git(project, "add", "new.py")
    assert git_facts(project)["git_dirty"] == "true"


def test_without_a_commit_or_without_git_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"git_commit": "unknown", "git_dirty": "unknown"}
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "bare").mkdir()
    assert git_facts(tmp_path / "bare") == unknown
    _git(tmp_path / "bare", "init", "-q")
    assert git_facts(tmp_path / "bare") == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_facts(tmp_path) == unknown


def test_tags_hash_the_pins_and_say_what_is_absent(project: Path) -> None:
    tags = lineage_tags(project, data_hash="feed")
    assert tags["params_sha256"] == hashlib.sha256(b"seed: 0\n").hexdigest()
    assert tags["lock_sha256"] == "unknown"
    assert tags["data_version"] == "0123abcd.dir"
    assert tags["data_hash"] == "feed"
    assert not any(name.startswith("dvc_") for name in tags)
    assert str(project) not in "".join(tags.values())


def test_dvc_names_its_stage_and_experiment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("DVC_EXP_NAME", "wider")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "")
    tags = lineage_tags(project)
    assert (tags["dvc_stage"], tags["dvc_exp_name"]) == ("train", "wider")
    assert "dvc_exp_baseline_rev" not in tags
    assert "data_hash" not in tags
