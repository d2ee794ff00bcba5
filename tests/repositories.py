"""Git and DVC in a test's own repository."""

import os
import subprocess
import sys
from pathlib import Path


def command(root: Path, *words: str) -> str:
    """Run git, or the dvc of this environment, in a folder; return what it said, and fail where it fails."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("DVC_", "GIT_", "MLFLOW_"))}
    bins = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"PATH": bins, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def commit(root: Path, subject: str) -> str:
    """Commit everything; return the commit."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command(root, "git", "add", "-A")
    command(root, "git", *who, "commit", "-qm", subject)
    return command(root, "git", "rev-parse", "HEAD")
