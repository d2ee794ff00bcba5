"""Backup of the servers' databases and buckets to a folder, and the way back.

    python infra/backup.py backup FOLDER
    python infra/backup.py verify FOLDER
    python infra/backup.py restore FOLDER [--overwrite]

What and where stands in the environment, passwords too, so that none shows in the list of processes:

* ``BACKUP_DATABASES``: addresses, spaces between them, as ``postgresql://mlflow:PASSWORD@postgres:5432/mlflow``; a
  driver (``postgresql+asyncpg``) and ``?sslmode=`` are understood. Without a password libpq's own ways are taken.
* ``BACKUP_BUCKETS``: names of S3 buckets, spaces between them; ``AWS_ENDPOINT_URL_S3``, ``AWS_ACCESS_KEY_ID``, …

``pg_dump``, ``pg_restore`` and ``psql`` must be there, no older than the server. Databases are dumped first: what their
rows name is in the buckets before. Servers may run during a backup; stop them for a restore. Objects lie under the hash
of their content, since their keys are no safe file names; ``manifest.json``, written last, says which was which.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import click

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_VERSION = 1
_CHUNK_BYTES = 1 << 20
_OWN_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
_EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
_LIBPQ = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}


class BackupError(RuntimeError):
    """A backup cannot be made, trusted or restored."""


@dataclass(frozen=True, kw_only=True)
class Servers:
    """What is backed up."""

    databases: Mapping[str, Mapping[str, str]]
    """Name -> libpq's variables, in the order in which they are dumped."""
    buckets: Sequence[str]
    """Names."""
    store: Any
    """A boto3 client of S3."""


def servers_of(environment: Mapping[str, str]) -> Servers:
    """Read what to back up from the environment.

    Raises:
        BackupError: if a variable is missing, or an address is none of Postgres.
    """
    import boto3

    missing = [name for name in ("BACKUP_DATABASES", "BACKUP_BUCKETS") if not environment.get(name)]
    if missing:
        raise BackupError(f"{', '.join(missing)}: not in the environment; `python infra/backup.py --help` says what to")
    parsed = [libpq_variables(address) for address in environment["BACKUP_DATABASES"].split()]
    databases = {variables["PGDATABASE"]: variables for variables in parsed}
    if len(databases) < len(parsed):
        raise BackupError("BACKUP_DATABASES: two databases have one name; back them up apart")
    return Servers(databases=databases, buckets=environment["BACKUP_BUCKETS"].split(), store=boto3.client("s3"))


def libpq_variables(address: str) -> dict[str, str]:
    """Translate an address into the variables that Postgres's programs read.

    Raises:
        BackupError: if it is not understood; the password is not repeated.
    """
    url = urlsplit(address)
    database = unquote(url.path.removeprefix("/"))
    if url.scheme.partition("+")[0] != "postgresql" or not (url.hostname and url.username and database):
        raise BackupError(f"BACKUP_DATABASES: {url.scheme}://…{url.path}: wanted postgresql://USER@HOST:PORT/DATABASE")
    options = dict(parse_qsl(url.query))
    if unknown := sorted(set(options) - set(_LIBPQ)):
        raise BackupError(f"BACKUP_DATABASES: {', '.join(unknown)} of {database}: known are {', '.join(_LIBPQ)}")
    given = {"PGHOST": url.hostname, "PGPORT": str(url.port or 5432), "PGUSER": unquote(url.username),
             "PGDATABASE": database, **{_LIBPQ[name]: value for name, value in options.items()}}  # fmt: skip
    return {**given, **({"PGPASSWORD": unquote(url.password)} if url.password else {})}


def backup(folder: Path, servers: Servers) -> dict[str, Any]:
    """Write a backup.

    Args:
        folder: new; it has this name only when everything is in it.
        servers: what to back up.

    Returns:
        The manifest.

    Raises:
        BackupError: if the folder is there, or a dump fails.
    """
    if folder.exists():
        raise BackupError(f"{folder}: is there already; name a new folder")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "databases").mkdir(parents=True)
    databases = {name: _dump(part, name, variables) for name, variables in servers.databases.items()}
    buckets = {bucket: dict(_fetch(part, bucket, servers.store)) for bucket in servers.buckets}
    made = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"version": _VERSION, "made": made, "databases": databases, "buckets": buckets}
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    part.rename(folder)
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Hold every file of a backup to its hash; return the manifest.

    Raises:
        BackupError: if the manifest or a file is missing, or a file is not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise BackupError(f"{folder}: no {MANIFEST}, so no finished backup; take another one")
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    if manifest["version"] != _VERSION:
        raise BackupError(f"{folder}: written as version {manifest['version']}, this is {_VERSION}; use its own script")
    wanted = {dump["file"]: dump["sha256"] for dump in manifest["databases"].values()}
    wanted |= {_object(sha256): sha256 for objects in manifest["buckets"].values() for sha256 in objects.values()}
    for file, sha256 in sorted(wanted.items()):
        if not (folder / file).is_file():
            raise BackupError(f"{folder / file}: missing; take another backup")
        if (found := _hash(folder / file)) != sha256:
            raise BackupError(f"{folder / file}: sha256 {found}, wanted {sha256}: damaged; take another backup")
    return manifest


def restore(folder: Path, servers: Servers, *, overwrite: bool) -> dict[str, Any]:
    """Put a backup back; nothing is touched before all of it has been verified.

    Args:
        folder: as :func:`backup` left it.
        servers: where to; names of databases and buckets as they were.
        overwrite: empty what is not empty, instead of refusing.

    Returns:
        The manifest.

    Raises:
        BackupError: if the backup is damaged, names other databases or buckets, would go over data, or a server does
            not take it.
    """
    manifest = verify(folder)
    for kind, named in (("databases", list(servers.databases)), ("buckets", list(servers.buckets))):
        if sorted(manifest[kind]) != sorted(named):
            raise BackupError(f"{folder}: holds {kind} {', '.join(manifest[kind])}, BACKUP_{kind.upper()} names"
                              f" {', '.join(named)}; they must be the same")  # fmt: skip
    if filled := _filled(servers):
        if not overwrite:
            raise BackupError(f"not empty: {', '.join(filled)}; stop the servers, and empty them or say --overwrite")
        _empty(servers)
    for bucket, objects in manifest["buckets"].items():
        for key, sha256 in objects.items():
            servers.store.upload_file(str(folder / _object(sha256)), bucket, key)
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    for name, dump in manifest["databases"].items():
        file = str((folder / dump["file"]).resolve())
        _postgres("pg_restore", *options, "--dbname", name, file, variables=servers.databases[name])
    return manifest


def _dump(folder: Path, name: str, variables: Mapping[str, str]) -> dict[str, str]:
    file = f"databases/{name}.dump"
    _postgres("pg_dump", "--format=custom", "--no-password", "--file", str(folder / file), variables=variables)
    return {"file": file, "sha256": _hash(folder / file)}


def _fetch(folder: Path, bucket: str, store: Any) -> Iterator[tuple[str, str]]:
    """Copy a bucket's objects; give key and hash of each."""
    from botocore.exceptions import ClientError

    aside = folder / "object.part"
    for key in _keys(bucket, store):
        try:
            store.download_file(bucket, key, str(aside))
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise BackupError(f"{bucket}/{key}: {error}") from error
            _log.warning("%s/%s was deleted meanwhile; it is not in the backup", bucket, key)
            continue
        sha256 = _hash(aside)
        (folder / _object(sha256)).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder / _object(sha256))
        yield key, sha256


def _keys(bucket: str, store: Any) -> list[str]:
    from botocore.exceptions import BotoCoreError, ClientError

    pages = store.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    try:
        return [item["Key"] for page in pages for item in page.get("Contents", ())]
    except (BotoCoreError, ClientError) as error:
        raise BackupError(f"bucket {bucket}: {error}; see AWS_ENDPOINT_URL_S3, and make the bucket") from error


def _filled(servers: Servers) -> list[str]:
    sql = ("--no-psqlrc", "--tuples-only", "--no-align", "--command", _OWN_TABLES)
    databases = [
        f"database {name}" for name, variables in servers.databases.items()
        if int(_postgres("psql", *sql, variables=variables)) > 0
    ]  # fmt: skip
    return databases + [f"bucket {name}" for name in servers.buckets if _keys(name, servers.store)]


def _empty(servers: Servers) -> None:
    for variables in servers.databases.values():
        _postgres("psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--command", _EMPTY, variables=variables)
    for bucket in servers.buckets:
        for key in _keys(bucket, servers.store):
            servers.store.delete_object(Bucket=bucket, Key=key)


def _postgres(program: str, *arguments: str, variables: Mapping[str, str]) -> str:
    """Run one of Postgres's programs; it waits at most a minute for servers that hold a table."""
    env = {**os.environ, "PGOPTIONS": "-c lock_timeout=60s", **variables}
    try:
        done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BackupError(f"{program}: not found; install Postgres's client, no older than the server") from error
    if done.returncode:
        raise BackupError(f"{program} of database {variables['PGDATABASE']}: {done.stderr.strip()}")
    return done.stdout.strip()


def _object(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _say(what: str, folder: Path, manifest: Mapping[str, Any]) -> None:
    num_objects = sum(map(len, manifest["buckets"].values()))
    _log.info("%s %s: databases %s; %d objects", folder, what, ", ".join(manifest["databases"]), num_objects)


_folder = click.argument("folder", type=click.Path(path_type=Path))


@click.group(help=__doc__)
def main() -> None:
    """Say what is done as it is done."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


@main.command("backup")
@_folder
def backup_command(folder: Path) -> None:
    """Write a backup into FOLDER, which must be new."""
    _say("written", folder, backup(folder, servers_of(os.environ)))


@main.command("verify")
@_folder
def verify_command(folder: Path) -> None:
    """Hold all files of FOLDER to their hashes."""
    _say("is whole", folder, verify(folder))


@main.command("restore")
@_folder
@click.option("--overwrite", is_flag=True, help="Empty databases and buckets that are not empty.")
def restore_command(folder: Path, overwrite: bool) -> None:
    """Put FOLDER back."""
    _say("restored", folder, restore(folder, servers_of(os.environ), overwrite=overwrite))


if __name__ == "__main__":
    try:
        main()
    except BackupError as problem:
        raise SystemExit(str(problem)) from problem
