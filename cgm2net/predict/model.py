"""The model that predicts: a folder, or a version in MLflow's registry."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cgm2net import registry, weights
from cgm2net.errors import ModelError
from cgm2net.files import CACHE_DIR, read_json
from cgm2net.model.interface import Network
from cgm2net.weights import Card

_URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network ready to predict, and where it comes from."""

    network: Network = field(repr=False)
    card: Card
    device: torch.device
    name: str
    version: str
    "Number in the registry; empty for a folder."
    sha256: str
    "Of weights and card."
    lineage: Mapping[str, str]
    "What is known of its making: ``run_id``, ``git_commit``, ``data_hash``, ``data_version``, …"


def load_model(uri: str, *, cache_dir: Path = CACHE_DIR) -> LoadedModel:
    """Load a model onto the CUDA device where there is one.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a folder with weights and card.
        cache_dir: keeps what comes from the registry.

    Raises:
        ModelError: if there is no such model, or its files do not fit.
        BackendError: if the registry cannot be reached.
    """
    folder, version = _located(uri, cache_dir)
    network, card = weights.load(folder)
    known = _run_of(folder) if version is None else _lineage(version)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(
        network=network.to(device),
        card=card,
        device=device,
        name=version.name if version else folder.resolve().name,
        version=str(version.number) if version else "",
        sha256=registry.model_hashes(folder)["model_sha256"],
        lineage={"data_hash": card.data_hash, "library_version": card.library_version, **known},
    )


def model_folder(uri: str, *, cache_dir: Path = CACHE_DIR) -> Path:
    """Return a local folder with a model's weights and card; arguments and errors as of :func:`load_model`."""
    return _located(uri, cache_dir)[0]


def _located(uri: str, cache_dir: Path) -> tuple[Path, registry.Version | None]:
    if not uri.startswith("models:"):
        return Path(uri), None
    version = _registered(uri)
    folder = cache_dir / "models" / version.tags["model_sha256"]
    if not folder.is_dir():
        registry.download_version(version, folder)
    return folder, version


def _lineage(version: registry.Version) -> dict[str, str]:
    long = ("metrics.", "decision")
    return {"run_id": version.run_id, **{k: v for k, v in version.tags.items() if not k.startswith(long)}}


def _registered(uri: str) -> registry.Version:
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise ModelError(f"{uri}: not a model; wanted models:/NAME@ALIAS, models:/NAME/VERSION or a folder")
    name, alias, number = parts["name"], parts["alias"], parts["number"]
    found = registry.version_of(name, alias=alias) if alias else registry.version_numbered(name, int(number))
    if found is None:
        wanted = f"alias {alias}" if alias else f"version {number}"
        raise ModelError(
            f"{uri}: no model {name} with {wanted} is registered; `dvc repro` registers one, MLFLOW_TRACKING_URI says"
            " where to look"
        )
    return found


def _run_of(folder: Path) -> dict[str, str]:
    record = folder / "run.json"
    return {"run_id": str(read_json(record)["run_id"])} if record.is_file() else {}
