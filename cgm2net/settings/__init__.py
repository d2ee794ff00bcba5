"""params.yaml as typed, frozen settings: one section a stage, unknown keys and values out of range refused."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from cgm2net.errors import SettingsError
from cgm2net.settings.data import (
    CLOUD_BANDS,
    CloudmaskSettings,
    CloudMethodName,
    CoregisterSettings,
    DownloadSettings,
    ProductLevel,
    TileSettings,
    ValidateSettings,
    missing_cloud_bands,
)
from cgm2net.settings.learning import OWN_PARTS, Architecture, EvaluateSettings, RegisterSettings, TrainSettings
from cgm2net.settings.monitor import MonitorSettings
from cgm2net.settings.section import Section

__all__ = [
    "CLOUD_BANDS", "OWN_PARTS", "Architecture", "CloudMethodName", "CloudmaskSettings", "CoregisterSettings",
    "DownloadSettings", "EvaluateSettings", "MonitorSettings", "ProductLevel", "RegisterSettings", "Settings",
    "TileSettings", "TrainSettings", "ValidateSettings", "missing_cloud_bands", "read_settings",
]  # fmt: skip


class Settings(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    cluster: str = ""
    "Address of a Dask scheduler, `tcp://HOST:8786`, whose workers do the scenes of the data stages; empty: processes"
    " of this machine. No result depends on it, so no stage is stale when it changes."
    download: DownloadSettings
    validate_: ValidateSettings = Field(alias="validate")
    coregister: CoregisterSettings
    cloudmask: CloudmaskSettings
    tile: TileSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    register_: RegisterSettings = Field(alias="register")
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
    "Of no stage, so it may be left out."

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: object) -> object:
        """`train:` with nothing below it means all defaults, like `train: {}`; the cluster serves every data stage."""
        if not isinstance(values, dict):
            return values
        filled = {
            key: {} if value is None and key not in ("seed", "cluster") else value for key, value in values.items()
        }
        for stage in ("download", "validate", "coregister", "cloudmask", "tile"):
            if isinstance(filled.get(stage), dict) and filled.get("cluster"):
                filled[stage] = {**filled[stage], "cluster": filled["cluster"]}
        return filled

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        """What validation asks of a scene is what later stages take from it."""
        pairs = {
            "optical": (self.validate_.required_optical_bands, self.coregister.optical_bands),
            "sar": (self.validate_.required_sar_bands, self.coregister.sar_bands),
        }
        for sensor, (required, taken) in pairs.items():
            if set(required) != set(taken):
                raise ValueError(
                    f"validate.required_{sensor}_bands {', '.join(required)} and coregister.{sensor}_bands"
                    f" {', '.join(taken)} must name the same bands"
                )
        self._require_cloud_bands()
        last = len(self.tile.classes) - 1
        if "label_codes_max" in self.validate_.model_fields_set and self.validate_.label_codes_max != last:
            raise ValueError(
                f"validate.label_codes_max {self.validate_.label_codes_max} must be {last}, the last code of"
                " tile.classes"
            )
        return self

    def _require_cloud_bands(self) -> None:
        have = {*self.coregister.optical_bands, *self.coregister.extra_optical_bands}
        for key in ("method", "compare_with"):
            method = getattr(self.cloudmask, key) or ""
            if missing := missing_cloud_bands(method, have):
                raise ValueError(
                    f"cloudmask.{key} {method} needs bands {', '.join(CLOUD_BANDS[method])}; add {', '.join(missing)}"
                    " to coregister.extra_optical_bands, or choose another method"
                )

    def section(self, stage: str) -> Section:
        """Return one stage's settings by the stage's name."""
        names = {field.alias or name: name for name, field in type(self).model_fields.items()}
        value = getattr(self, names[stage])
        assert isinstance(value, Section), stage
        return value


def read_settings(path: Path) -> Settings:
    """Read params.yaml.

    Raises:
        SettingsError: with the dotted path of each wrong key, what stands there and what was wanted.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: no settings there; run in the project's root, or name the file")
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(path, problem) for problem in error.errors())) from error


def _explain(path: Path, problem: object) -> str:
    assert isinstance(problem, dict)
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{path}: {where}: unknown key; correct its spelling or remove it"
    if problem["type"] == "missing":
        return f"{path}: {where}: missing; add it"
    if problem["type"] == "value_error":  # a check of several keys, whose message holds their values
        return f"{path}: {where}: {problem['ctx']['error']}"
    return f"{path}: {where}: got {problem['input']!r}: {problem['msg']}"
