"""Starts the S3 store (SeaweedFS): who may do what is written from the environment, then this process becomes `weed`.

Only S3 listens on the network. SeaweedFS's own servers ask nobody for a password, so they stay on loopback.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDENTITIES = Path("/tmp/identities.json")

ACTIONS = ("Read", "Write", "List", "Tagging")


def identities(environment: Mapping[str, str]) -> dict[str, Any]:
    """Say who may do what: an administrator, and one account for each bucket that reaches no other.

    Args:
        environment: holds ``STORAGE_ADMIN_SECRET``, ``STORAGE_MLFLOW_SECRET`` and ``STORAGE_DVC_SECRET``.

    Returns:
        What SeaweedFS reads: an access key is the name of its account.

    Raises:
        KeyError: if a secret is missing.
        ValueError: if one is empty: SeaweedFS would let anybody in.
    """
    rights = {"admin": ["Admin"], **{bucket: [f"{a}:{bucket}" for a in ACTIONS] for bucket in ("mlflow", "dvc")}}
    secrets = {name: environment[f"STORAGE_{name.upper()}_SECRET"] for name in rights}
    if empty := sorted(name for name, secret in secrets.items() if not secret):
        raise ValueError(f"STORAGE_…_SECRET of {', '.join(empty)} is empty; infra/make-env makes one")
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": name, "secretKey": secrets[name]}],
                "actions": actions,
            }
            for name, actions in rights.items()
        ]
    }


def command(data: Path) -> list[str]:
    """Return the server's command line, without secrets."""
    return [
        "weed", "-logtostderr=true", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-volume.max=0", "-master.volumeSizeLimitMB=1024", "-master.telemetry=false",
        "-s3", f"-s3.config={IDENTITIES}", "-s3.ip.bind=0.0.0.0", "-s3.port=8333", "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-s3.iam=false", "-filer.localSocket=", "-s3.localSocket=",
    ]  # fmt: skip


def main() -> None:
    """Become the server."""
    allowed = identities(os.environ)
    IDENTITIES.touch(mode=0o600)
    IDENTITIES.write_text(json.dumps(allowed))
    weed = command(Path("/data"))
    # SeaweedFS takes AWS_… as one more administrator.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STORAGE_"))}
    os.execvpe(weed[0], weed, kept)


if __name__ == "__main__":
    main()
