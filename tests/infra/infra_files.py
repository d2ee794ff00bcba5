"""Where infra/ is, and the tools that check it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"

_SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|TOKEN|PASSPHRASE|^PREFECT_AUTH$|^BACKUP_DATABASES$")
_SAYS_WHERE = re.compile(r"_SECRET_(NAME|KEY)$")
_SECRET_KEYS = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_FLASK_SERVER_SECRET_KEY")


def holds_secret(variable: str) -> bool:
    """Tell by its name whether a variable's value is a secret, not only the name of one."""
    return variable in _SECRET_KEYS or bool(_SECRET.search(variable) and not _SAYS_WHERE.search(variable))


def tool(name: str) -> str:
    """Return a program of this environment or of the machine; the test skips where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}; pip install -e '.[infra]'")
    return found


def run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload,no-any-return]
