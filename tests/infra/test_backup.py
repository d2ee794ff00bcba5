"""Addresses and damaged backups; tests/services/test_restored.py makes and restores a real one."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "infra/backup.py"


@pytest.fixture(scope="module")
def backup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("infra_backup", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["infra_backup"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_an_address_becomes_variables_with_driver_and_escapes_resolved(backup: ModuleType) -> None:
    assert backup.libpq_variables("postgresql+asyncpg://me:p%40ss@db:6000/prefect?sslmode=require") == {
        "PGHOST": "db", "PGPORT": "6000", "PGUSER": "me", "PGPASSWORD": "p@ss", "PGDATABASE": "prefect",
        "PGSSLMODE": "require",
    }  # fmt: skip
    assert backup.libpq_variables("postgresql://me@db/mlflow") == {
        "PGHOST": "db", "PGPORT": "5432", "PGUSER": "me", "PGDATABASE": "mlflow",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:///mlflow.db", "wanted postgresql://USER@HOST:PORT/DATABASE"),
        ("postgresql://me:secret@db", "wanted postgresql://"),
        ("postgresql://me:secret@db/mlflow?options=x", "options of mlflow: known are sslmode, sslrootcert"),
    ],
)
def test_a_wrong_address_is_refused_without_its_password(backup: ModuleType, address: str, message: str) -> None:
    with pytest.raises(backup.BackupError, match=message) as caught:
        backup.libpq_variables(address)
    assert "secret" not in str(caught.value)


def test_what_is_missing_in_the_environment_is_named(backup: ModuleType) -> None:
    with pytest.raises(backup.BackupError, match=r"BACKUP_BUCKETS: not in the environment"):
        backup.servers_of({"BACKUP_DATABASES": "postgresql://me@db/mlflow"})
    twice = {"BACKUP_DATABASES": "postgresql://me@a/mlflow postgresql://me@b/mlflow", "BACKUP_BUCKETS": "b"}
    with pytest.raises(backup.BackupError, match="two databases have one name"):
        backup.servers_of(twice)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"no manifest\.json, so no finished backup"),
        (lambda folder: (folder / "databases/a.dump").write_bytes(b"more"), "damaged"),
        (lambda folder: next(folder.glob("objects/*/*")).unlink(), "missing"),
    ],
)
def test_a_backup_that_is_not_whole_is_refused(backup: ModuleType, tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    sha256 = hashlib.sha256(b"x").hexdigest()
    for file in ("databases/a.dump", f"objects/{sha256[:2]}/{sha256}"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"x")
    databases = {"a": {"file": "databases/a.dump", "sha256": sha256}}
    manifest = {"version": 1, "made": "", "databases": databases, "buckets": {"b": {"../../key": sha256}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert backup.verify(tmp_path) == manifest
    spoil(tmp_path)
    with pytest.raises(backup.BackupError, match=message):
        backup.verify(tmp_path)
