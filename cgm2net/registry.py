"""Model versions in MLflow: register one, find it by its weights or an alias, move an alias and keep a record of it."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import requires
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from cgm2net.errors import BackendError
from cgm2net.files import sha256_file, sha256_json, write_aside
from cgm2net.tracking import connect, store_uri, translated
from cgm2net.weights import CARD_FILE, WEIGHTS_FILE, Card

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_FILES = (WEIGHTS_FILE, CARD_FILE)
_ARTIFACT = "model"
_TAKES = "dict of optical, sar, cloud (B, C, H, W); or a table with columns optical, sar, cloud, scene_id, out of paths"
_GIVES = "dict of clear, half_width, logits, probabilities; or a table of scene_id, folder, products"
_MOVES = "alias_move"
_TABLES = "judged"
_ABSENT = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered model version."""

    name: str
    number: int
    run_id: str
    "The run that trained it."
    tags: dict[str, str]


def model_hashes(model_dir: Path) -> dict[str, str]:
    """Return what a version is known by: ``weights_sha256`` of the weights, ``model_sha256`` of weights and card."""
    digests = {name: sha256_file(model_dir / name) for name in _FILES}
    return {"weights_sha256": digests[WEIGHTS_FILE], "model_sha256": sha256_json(digests)}


def register_version(model_dir: Path, *, name: str, run_id: str, tags: Mapping[str, str]) -> Version:
    """Make a model version of weights and card, or return the one that these very files have.

    The version holds a pyfunc model from code: this library's sources, the two files, what :mod:`cgm2net.serving` takes
    and gives in words, an input example of two tiles, and pinned requirements. Killed at any point and
    called again, it leaves one version.

    Args:
        model_dir: folder with ``weights.safetensors`` and ``card.json``.
        name: of the registered model.
        run_id: the run that trained it.
        tags: lineage, set when the version is made; :func:`model_hashes` is added.

    Raises:
        BackendError: if the server does not take it.
    """
    hashes = model_hashes(model_dir)
    with translated(f"a version of {name}"):
        client = connect()
        if found := _find_version(client, name, model_sha256=hashes["model_sha256"]):
            return found
        model_id = _log_model(client, model_dir, name=name, run_id=run_id, hashes=hashes)
        if _registered(client, name) is None:
            client.create_registered_model(name)
        # The tags come with the version in one transaction: a version without its hash could not be found again.
        made = client.create_model_version(
            name, source=f"models:/{model_id}", run_id=run_id, tags={**tags, **hashes}, model_id=model_id
        )
        return _version(client.get_model_version(name, made.version))


def version_of(name: str, *, alias: str) -> Version | None:
    """Return the version that an alias stands on; None where there is no such model or alias.

    Raises:
        BackendError: if the server cannot be asked.
    """
    with translated(f"alias {alias} of {name}"):
        client = connect()
        model = _registered(client, name)
        number = model.aliases.get(alias) if model else None
        return _version(client.get_model_version(name, str(number))) if number else None


def version_numbered(name: str, number: int) -> Version | None:
    """Return a version by its number; None where there is no such model or version.

    Raises:
        BackendError: if the server cannot be asked.
    """
    from mlflow.exceptions import MlflowException

    with translated(f"version {number} of {name}"):
        try:
            return _version(connect().get_model_version(name, str(number)))
        except MlflowException as error:
            if error.error_code != _ABSENT:
                raise
            return None


def set_alias(version: Version, *, alias: str, why: str, who: str, facts: Mapping[str, object] | None = None) -> bool:
    """Move an alias, and record the move; nothing happens where it already stands there.

    The record is one tag of the registered model a move, named by its time: nothing is read and written back, so that
    moves made at the same time do not lose each other, and it is saved with the store's database. It is written
    before the alias moves; after an interruption in between, the same move is completed and not recorded twice.

    Args:
        version: where the alias shall stand.
        alias: ``champion`` or ``challenger``.
        why: the reason, in words.
        who: the person or stage that decided.
        facts: more for the record, e.g. the metrics; JSON can hold it.

    Returns:
        Whether the alias stood elsewhere.

    Raises:
        BackendError: if the server does not take it.
    """
    with translated(f"alias {alias} of {version.name}"):
        client = connect()
        model = _registered(client, version.name)
        standing = model.aliases.get(alias) if model else None
        before = None if standing is None else int(standing)
        if before == version.number:
            return False
        past = _moves(model, alias=alias) if model else []
        if not past or (past[-1]["from"], past[-1]["to"]) != (before, version.number):
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            move = {"when": now, "who": who, "from": before, "to": version.number, "why": why, **(facts or {})}
            client.set_registered_model_tag(version.name, f"{_MOVES}.{alias}.{now}", json.dumps(move, sort_keys=True))
        client.set_registered_model_alias(version.name, alias, str(version.number))
        return True


def alias_moves(name: str, *, alias: str) -> list[dict[str, object]]:
    """Return every recorded move of an alias, oldest first: ``when, who, from, to, why`` and the facts of the move.

    Raises:
        BackendError: if the server cannot be asked.
    """
    with translated(f"moves of alias {alias} of {name}"):
        model = _registered(connect(), name)
        return _moves(model, alias=alias) if model else []


def tag_version(version: Version, *, tags: Mapping[str, str], description: str | None = None) -> Version:
    """Set tags and description of a version, over those there; return it as it is now.

    Raises:
        BackendError: if the server does not take them.
    """
    with translated(f"tags of version {version.number} of {version.name}"):
        client = connect()
        for key, value in sorted(tags.items()):
            client.set_model_version_tag(version.name, str(version.number), key, value)
        if description is not None:
            client.update_model_version(version.name, str(version.number), description)
    return Version(name=version.name, number=version.number, run_id=version.run_id, tags={**version.tags, **tags})


def keep_table(version: Version, table: "pd.DataFrame", *, name: str) -> None:
    """Keep a table with a version, as ``judged/NAME.parquet`` of its run.

    Raises:
        BackendError: if the server does not take it.
    """
    what = f"table {name} of version {version.number} of {version.name}"
    with translated(what), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.parquet"
        table.to_parquet(path, index=False)
        connect().log_artifact(version.run_id, str(path), _TABLES)


def kept_table(version: Version, *, name: str) -> "pd.DataFrame | None":
    """Return a table that :func:`keep_table` has kept; None where there is none.

    Raises:
        BackendError: if the server cannot be asked.
    """
    import pandas as pd
    from mlflow.exceptions import MlflowException

    path = f"{_TABLES}/{name}.parquet"
    with translated(f"table {name} of version {version.number} of {version.name}"):
        client = connect()
        try:
            there = any(file.path == path for file in client.list_artifacts(version.run_id, _TABLES))
        except MlflowException as error:
            if error.error_code != _ABSENT:  # the run was deleted
                raise
            return None
        if not there:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(client.download_artifacts(version.run_id, path, folder))


def download_version(version: Version, out_dir: Path) -> None:
    """Fetch a version's weights and card into a new folder, and check them against its tags.

    Raises:
        BackendError: if the server does not give them, or gives other bytes than were registered.
    """
    with translated(f"version {version.number} of {version.name}"), write_aside(out_dir) as aside:
        client = connect()
        from mlflow.artifacts import download_artifacts

        source = client.get_model_version_download_uri(version.name, str(version.number))
        aside.mkdir()
        for name in _FILES:
            uri = f"{source}/artifacts/{_ARTIFACT}/{name}"
            download_artifacts(artifact_uri=uri, dst_path=str(aside), tracking_uri=store_uri())
        got, wanted = model_hashes(aside)["model_sha256"], version.tags.get("model_sha256")
        if got != wanted:
            raise BackendError(
                f"version {version.number} of {version.name}: the store gave a model with hash {got}, registered was"
                f" {wanted}; restore the artifact store from its backup"
            )


def _find_version(client: "MlflowClient", name: str, *, model_sha256: str) -> Version | None:
    found = client.search_model_versions(f"name = '{name}' and tags.model_sha256 = '{model_sha256}'")
    return _version(min(found, key=lambda version: int(version.version))) if found else None


def _registered(client: "MlflowClient", name: str) -> "RegisteredModel | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != _ABSENT:
            raise
        return None


def _moves(model: "RegisteredModel", *, alias: str) -> list[dict[str, object]]:
    prefix = f"{_MOVES}.{alias}."
    return [json.loads(text) for key, text in sorted(model.tags.items()) if key.startswith(prefix)]


def _version(found: "ModelVersion") -> Version:
    return Version(name=found.name, number=int(found.version), run_id=found.run_id or "", tags=dict(found.tags))


def _log_model(client: "MlflowClient", model_dir: Path, *, name: str, run_id: str, hashes: Mapping[str, str]) -> str:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    experiment_id = client.get_run(run_id).info.experiment_id
    for left in client.search_logged_models([experiment_id], f"tags.model_sha256 = '{hashes['model_sha256']}'"):
        if left.status == LoggedModelStatus.READY:
            return str(left.model_id)
        client.delete_logged_model(left.model_id)  # an interrupted upload
    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, tags=dict(hashes))
    mlflow_model = Model(
        artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id
    )
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "saved"
        _save_model(model_dir, saved, mlflow_model=mlflow_model)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _save_model(model_dir: Path, saved: Path, *, mlflow_model: object) -> None:
    from mlflow import pyfunc

    card = Card.model_validate_json((model_dir / CARD_FILE).read_text())
    with tempfile.TemporaryDirectory() as folder:
        only = Path(folder) / _ARTIFACT  # model_dir holds pictures and curves too
        only.mkdir()
        # mlflow writes down where the code came from: not a path of this machine
        code = shutil.copy(Path(__file__).with_name("serving.py"), folder)
        for name in _FILES:
            shutil.copyfile(model_dir / name, only / name)
        pyfunc.save_model(
            path=str(saved),
            mlflow_model=mlflow_model,
            python_model=code,
            artifacts={_ARTIFACT: str(only)},
            code_paths=[str(Path(__file__).parent)],
            # No signature can say "arrays or a table of paths"; MLflow would refuse one of the two.
            signature=False,
            input_example=_input_example(card),
            metadata={"takes": _TAKES, "gives": _GIVES},
            pip_requirements=_requirements(),
        )


def _requirements() -> list[str]:
    """Return what the library's sources, which lie with the model, need, each in the version that is installed here."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in requires("cgm2net") or []]
    here = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    named = {need.name: f"{need.name}[{','.join(sorted(need.extras))}]" if need.extras else need.name for need in here}
    return [f"{text}=={installed_version(name).split('+')[0]}" for name, text in sorted(named.items())]


def _input_example(card: Card) -> "dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]":
    import numpy as np

    num_channels = {"optical": len(card.optical_bands), "sar": len(card.sar_bands), "cloud": 1}
    # Batch 2: with 1, mlflow takes the batch for a constant.
    return {name: np.full((2, count, 32, 32), 0.5, np.float32) for name, count in num_channels.items()}
