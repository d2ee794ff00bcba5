"""Which model, files and settings made a map: the same record in every file's tags and in the STAC item."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import cgm2net
from cgm2net.data.cloud_methods import METHODS, version_of
from cgm2net.data.shift import Shift
from cgm2net.files import folder_hash, sha256_file, sha256_json
from cgm2net.predict.model import LoadedModel
from cgm2net.predict.prepare import Prepared
from cgm2net.predict.scene import BandFile, Scene, SceneInputs

if TYPE_CHECKING:
    from cgm2net.predict.run import PredictSettings

TAG_PREFIX = "CGM2NET_"
_RESULT_FREE = {"batch_size", "cluster", "compare_with", "min_agreement", "num_threads", "num_workers"}
"""Settings that no result depends on."""


def key_of(inputs: SceneInputs, model: LoadedModel, settings: "PredictSettings") -> str:
    """Return one hash of everything that a scene's products depend on: equal keys, equal products."""
    parts = [folder_hash(Path(cgm2net.__file__).parent), model.sha256, parameters_of(settings), inputs_of(inputs)]
    if settings.cloudmask.method in METHODS:  # its package may have another version by now
        parts.append(version_of(settings.cloudmask.method))
    return sha256_json([*parts, [asdict(band) | {"path": ""} for band in (*inputs.optical, *inputs.sar)]])


def provenance_of(
    scene: Scene, prepared: Prepared, model: LoadedModel, settings: "PredictSettings", *, key: str
) -> dict[str, object]:
    """Return the record; JSON can hold it, and equal predictions have equal ones."""
    cloud = {"method": prepared.cloud_method, "version": prepared.cloud_version, "cover": prepared.cloud_cover}
    return {
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256, **model.lineage},
        "inputs": inputs_of(scene.inputs),
        "parameters": parameters_of(settings),
        "grid": dict(scene.facts),
        "cloud": {**cloud, "cover": round(prepared.cloud_cover, 6)},
        "coregistration": shift_facts(prepared.shift),
        "key": key,
    }


def tags_of(provenance: Mapping[str, object]) -> dict[str, str]:
    """Return the record as tags of a GeoTIFF: the model's facts one by one, the rest as JSON."""
    model = provenance["model"]
    assert isinstance(model, Mapping)
    tags = {f"MODEL_{name.upper()}": str(value) for name, value in model.items()}
    tags |= {name.upper(): json.dumps(value, sort_keys=True) for name, value in provenance.items() if name != "model"}
    tags["KEY"] = str(provenance["key"])
    return {TAG_PREFIX + name: value for name, value in sorted(tags.items())}


def shift_facts(shift: Shift) -> dict[str, object]:
    """Return what co-registration found, NaN as None: ``dx_px`` and ``dy_px`` say where SAR lay at the centre."""
    facts = asdict(shift)
    facts.pop("windows")
    facts |= {"dx_px": shift.dx_px, "dy_px": shift.dy_px, "gradient": facts.pop("displacement")["gradient"]}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}
    return {name: None if value != value else value for name, value in rounded.items()}  # noqa: PLR0124 - NaN


def parameters_of(settings: "PredictSettings") -> dict[str, object]:
    """Return the settings that a result depends on."""
    return {
        "keep_clear": settings.keep_clear,
        "coregister": settings.coregister.model_dump(mode="json", exclude=_RESULT_FREE),
        "cloudmask": settings.cloudmask.model_dump(mode="json", exclude=_RESULT_FREE),
    }


def inputs_of(inputs: SceneInputs) -> dict[str, object]:
    """Return each role's files by name, with their SHA-256 where they lie on this machine."""
    roles = {"optical": _files(inputs.optical), "sar": _files(inputs.sar)}
    if inputs.cloud is not None:
        roles["cloud"] = [str(inputs.cloud)]
    acquired = {"acquired_optical": inputs.acquired_optical, "acquired_sar": inputs.acquired_sar}
    return {**acquired, **{role: [_named(path) for path in paths] for role, paths in roles.items()}}


def _files(bands: tuple[BandFile, ...]) -> list[str]:
    return sorted({band.path for band in bands})


def _named(path: str) -> dict[str, str]:
    local = Path(path)
    if not local.is_file():
        return {"file": path.partition("?")[0]}  # a signed address holds a secret behind its question mark
    return {"file": local.name, "sha256": sha256_file(local)}
