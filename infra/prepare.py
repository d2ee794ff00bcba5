"""What a new installation lacks: the store's buckets, and MLflow's account that the pipeline logs in with.

Run before the workers, each time; what is there already stays, and a new password is set.
"""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

_log = logging.getLogger(__name__)

ACCOUNT = "pipeline"
BUCKETS = ("dvc", "mlflow")


def make_buckets(store: Any) -> list[str]:
    """Make the buckets that are missing.

    Args:
        store: a boto3 client of an administrator.

    Returns:
        Names of those that were made.
    """
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    missing = [name for name in BUCKETS if name not in there]
    for name in missing:
        store.create_bucket(Bucket=name)
    return missing


def make_account(client: "AuthServiceClient", password: str) -> bool:
    """Make MLflow's account, not an administrator's; of one that is there, set the password.

    Args:
        client: logged in as an administrator.
        password: at least 12 characters, as MLflow wants.

    Returns:
        Whether it is new.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_user(ACCOUNT, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_user_password(ACCOUNT, password)
        return False
    return True


def main(environment: Mapping[str, str]) -> None:
    """Do both; the addresses and the administrators' names and passwords stand in the environment."""
    import boto3
    from mlflow.server.auth.client import AuthServiceClient

    store = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL_S3"])
    _log.info("buckets made: %s", ", ".join(make_buckets(store)) or "none, all are there")
    client = AuthServiceClient(environment["MLFLOW_TRACKING_URI"])
    new = make_account(client, environment["MLFLOW_PIPELINE_PASSWORD"])
    _log.info("account %s %s", ACCOUNT, "made" if new else "was there; its password is set")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(os.environ)
