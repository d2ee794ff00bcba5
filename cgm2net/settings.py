"""params.yaml as typed, frozen settings: one section a stage, unknown keys and values out of range refused."""

from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cgm2net.errors import SettingsError
from cgm2net.sensors import BANDS, COMMON_NAMES

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _OverScenes(_Section):
    """A stage that is mapped over scenes."""

    num_workers: Count = 2
    "Processes; 1 works in the calling one."
    cluster: str = ""
    "Comes from the key `cluster` of all settings."


class DownloadSettings(_OverScenes):
    """Catalogue URIs to checked local files."""

    max_attempts: Count = 4
    "Tries per file at faults of the network; each later one resumes where the last stopped."
    retry_wait_seconds: Annotated[float, Field(ge=0.0)] = 1.0
    "Before the second try; doubled before each further one."


class ValidateSettings(_OverScenes):
    """What an incoming scene must be."""

    min_accepted: Count = 1
    "Fewer accepted scenes than this stop the pipeline."
    required_optical_bands: tuple[str, ...] = ("B02", "B03", "B04", "B08", "B11", "B12")
    "Names that the cloudy and the clear image must hold, among others."
    required_sar_bands: tuple[str, ...] = ("VV", "VH")
    label_codes_max: Annotated[int, Field(ge=1, le=254)] = 254
    "Largest class code that a label may hold; 255 always means unknown."
    max_nodata_share: Share = 0.5
    "Of the optical, the SAR and the reference image, each."
    min_overlap_share: Share = 0.9
    "Share of the optical footprint that every other raster of the scene must cover."
    max_gap_days: Annotated[float, Field(ge=0.0)] = 30.0
    "Between the optical and the SAR acquisition, where both are known."
    max_gsd_ratio: Annotated[float, Field(ge=1.0)] = 4.0
    "Between the pixel sizes of any two rasters of a scene."

    @model_validator(mode="after")
    def _known_bands(self) -> "ValidateSettings":
        for name in (*self.required_optical_bands, *self.required_sar_bands):
            if name not in BANDS:
                raise ValueError(f"unknown band {name!r}; known: {', '.join(BANDS)}")
        return self


class CoregisterSettings(_OverScenes):
    """SAR, reference, label and cloud onto the optical grid, the residual shift measured and removed."""

    optical_bands: tuple[str, ...] = ("B02", "B03", "B04", "B08", "B11", "B12")
    extra_optical_bands: tuple[str, ...] = ()
    "Optical bands that only a cloud method looks at: kept in `extra.tif`, apart from what the network sees."
    sar_bands: tuple[str, ...] = ("VV", "VH")
    label_gsd_m: Positive | None = None
    "Pixel size [m] at which labels are kept, learned and scored where it is coarser than the optics' (M3M-CR: 10);"
    " None: the optical grid."
    max_shift_px: Positive = 8.0
    "A larger measured shift, along either axis, is not believed."
    min_shift_px: Annotated[float, Field(ge=0.0)] = 0.25
    "A shorter measured shift is left as it is."
    window_px: Annotated[int, Field(ge=32)] = 96
    "Side of the windows in which the shift is measured; six must fit, half overlapping, on clear ground."
    min_agreement: Share = 0.35
    "Share of usable windows that must agree on the shift before anything is moved."
    max_rmse_px: Positive = 1.0
    "Of the agreeing windows about their consensus."

    @model_validator(mode="after")
    def _known_bands(self) -> "CoregisterSettings":
        for name in (*self.optical_bands, *self.extra_optical_bands, *self.sar_bands):
            if name not in BANDS:
                raise ValueError(f"unknown band {name!r}; known: {', '.join(BANDS)}")
        return self


CloudMethodName = Literal["given", "scl", "simple", "s2cloudless", "csmask"]
ProductLevel = Literal["l1c", "l2a"]
CLOUD_BANDS = MappingProxyType({
    "simple": ("B02", "B04"),
    "s2cloudless": ("B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12"),
    "csmask": ("blue", "green", "red", "nir"),
})  # fmt: skip
"""Optical bands, by name or common name, that a cloud method cannot do without; the others look at the delivered mask
alone."""


def missing_cloud_bands(method: str, have: Collection[str]) -> list[str]:
    """Return which of its bands a cloud method would not find."""
    known = {*have, *(COMMON_NAMES.get(name, name) for name in have)}
    return [name for name in CLOUD_BANDS.get(method, ()) if name not in known]


class CloudmaskSettings(_OverScenes):
    """Where clouds and their shadows are."""

    method: Literal["given_or_simple", "given", "scl", "simple", "s2cloudless", "csmask"] = "given_or_simple"
    "`given` takes the catalogue's mask and refuses scenes without one; `given_or_simple` falls back to the rule."
    " `s2cloudless` and `csmask` need the extra `clouds`, and mostly bands of coregister.extra_optical_bands."
    product_level: ProductLevel = "l1c"
    "Of the optical images: `csmask` has a network for each level, `s2cloudless` knows L1C alone."
    dilation_px: Annotated[int, Field(ge=0)] = 2
    "Grown on every side of what method `scl` finds, where clouds thin out."
    compare_with: CloudMethodName | None = None
    "A second method, for scenes on which it can run: how far both agree goes into the scene table and a picture."
    min_agreement: Share = 0.0
    "Share of equal pixels of both masks below which a scene is refused; 0 refuses none."

    @model_validator(mode="after")
    def _consistent(self) -> "CloudmaskSettings":
        if self.product_level == "l2a" and "s2cloudless" in (self.method, self.compare_with):
            raise ValueError("s2cloudless knows L1C alone, product_level is l2a; choose csmask, scl or simple")
        if self.compare_with is not None and self.compare_with == self.method:
            raise ValueError(f"compare_with {self.compare_with} is method itself; name another, or none")
        if self.min_agreement and self.compare_with is None:
            raise ValueError(f"min_agreement {self.min_agreement:g} needs compare_with, the second method; name one")
        return self


class TileSettings(_OverScenes):
    """Scenes cut into square tiles, split by region."""

    size_px: Annotated[int, Field(ge=32)] = 128
    stride_px: Annotated[int, Field(ge=1)] = 128
    max_nodata_share: Share = 0.2
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]
    "Name of each label code, in the order of the codes; other codes are ignored in learning and scoring."
    split: Literal["region", "catalog"] = "region"
    "`region` draws regions by the shares below; `catalog` takes the catalogue's column split."
    shared_regions: bool = False
    "On: a catalogue's split may put one region on several sides (published splits by tile do; their scores flatter)."
    val_share: Share = 0.15
    test_share: Share = 0.25

    @model_validator(mode="after")
    def _consistent(self) -> "TileSettings":
        if self.size_px % 8:
            raise ValueError(f"size_px {self.size_px} must be a multiple of 8, the network's total stride")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {', '.join(self.classes)} hold a name twice; give each code its own")
        if self.val_share + self.test_share >= 1.0:
            raise ValueError("val_share + test_share must leave a share for training; lower one of them")
        return self


Architecture = Literal["cgm2net", "unet", "dsen2cr", "uncrtaints", "glfcr", "siamese_mamba"]
OWN_PARTS = ("restoration", "interaction", "fusion", "classes_to_image", "image_to_classes")
"""Switches of parts that only cgm2net has."""


class TrainSettings(_Section):
    """The network, its losses and the optimiser."""

    architecture: Architecture = "cgm2net"
    "The network, or one that it is compared with: see cgm2net/baselines."
    network_size: Literal["tiny", "small", "base"] = "tiny"
    "The one dial for size; the network's other dimensions follow from it. (DVC leaves keys named `size` out of its"
    " run cache's hash.)"
    steps: Count = 400
    batch_size: Count = 16
    crop_px: Annotated[int, Field(ge=16)] = 64
    "Side of the random crops that are trained on; at most the tile's size."
    learning_rate: Positive = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    gradient_clip: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: Count = 1
    "Processes: CUDA devices where there are any, CPU processes otherwise."
    num_passes: Count = 1
    "Passes that a batch is cut into where it does not fit into memory; their gradients make one step."
    recompute: bool = False
    "On: activations of the large parts are computed twice instead of kept; a third more time, much less memory."
    num_threads: Count = 2
    "CPU threads; part of the result's bytes, so it is fixed here and not by the machine."
    num_loader_workers: Annotated[int, Field(ge=0)] = 0
    "Processes that prepare crops; 0 is best for a set that fits into memory on the CPU."
    log_every_steps: Count = 20
    checkpoint_every_steps: Count = 40
    "A multiple of log_every_steps."
    validate_every_steps: Count = 200
    "A multiple of log_every_steps."
    task_weights: Literal["fixed", "learned"] = "fixed"
    restoration_weight: Annotated[float, Field(ge=0.0)] = 1.0
    segmentation_weight: Annotated[float, Field(ge=0.0)] = 0.5
    cloud_weight: Annotated[float, Field(ge=0.0)] = 4.0
    "Extra weight of a fully clouded pixel in the image loss."
    restoration: bool = True
    "CGFR on; it and the next four switch parts of cgm2net, for ablation."
    interaction: bool = True
    fusion: bool = True
    classes_to_image: bool = True
    image_to_classes: bool = True
    cloud_guidance: bool = True
    "Off: the network sees an all-clear mask, and no part of it leans on one."
    soft_mask: bool = True
    "Off: the network sees the mask cut at 0.5 into 0 and 1."
    sar: bool = True
    "Off: the network sees an even SAR image."

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.crop_px % 8:
            raise ValueError(f"crop_px {self.crop_px} must be a multiple of 8, the network's total stride")
        for name in ("checkpoint_every_steps", "validate_every_steps"):
            if getattr(self, name) % self.log_every_steps:
                raise ValueError(f"{name} must be a multiple of log_every_steps {self.log_every_steps}")
        if self.architecture != "cgm2net" and (off := [part for part in OWN_PARTS if not getattr(self, part)]):
            raise ValueError(f"{', '.join(off)}: parts of cgm2net, which {self.architecture} has not; leave them on")
        if self.batch_size % (self.devices * self.num_passes):
            raise ValueError(
                f"batch_size {self.batch_size} must divide into devices {self.devices} x num_passes {self.num_passes}"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        if self.restoration_weight + self.segmentation_weight == 0.0:
            raise ValueError("restoration_weight and segmentation_weight are both 0: nothing to learn; raise one")
        return self


class EvaluateSettings(_Section):
    """Metrics on the test regions."""

    batch_size: Count = 8
    "Tiles that the network sees at once."
    cloud_threshold: Share = 0.5
    "A pixel with a higher cloud probability counts as cloudy."
    cover_bins: Annotated[tuple[Share, ...], Field(min_length=2)] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    "Edges of the bins of cloud cover, a tile's share of cloudy pixels; each bin holds its lower edge, the last both."
    num_pictures: Annotated[int, Field(ge=1, le=50)] = 3
    "Best, median and worst tiles drawn, this many of each."
    num_threads: Count = 2
    "CPU threads; part of the result's last bits, so it is fixed here and not by the machine."

    @model_validator(mode="after")
    def _rising(self) -> "EvaluateSettings":
        if list(self.cover_bins) != sorted(set(self.cover_bins)):
            raise ValueError(f"cover_bins {self.cover_bins} must rise")
        if (self.cover_bins[0], self.cover_bins[-1]) != (0.0, 1.0):
            raise ValueError(f"cover_bins {self.cover_bins} must start at 0 and end at 1, or tiles would fall outside")
        return self


MetricName = Annotated[
    str, Field(pattern=r"^(all|clear|cloudy)/(psnr|ssim|mae|rmse|sam|cc|oa|accuracy|f1|miou|ece|iou_.+)$")
]
Difference = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class RegisterSettings(_Section):
    """When a challenger becomes the champion. Of mae, rmse, sam and ece less is better: their gain is a fall."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = "cgm2net"
    min_gain: Annotated[dict[MetricName, Difference], Field(min_length=1)] = Field(
        default_factory=lambda: {"cloudy/psnr": 0.0, "cloudy/miou": 0.0}
    )
    "Metric -> least gain over the champion."
    max_loss: dict[MetricName, Difference] = Field(default_factory=lambda: {"clear/psnr": 0.5, "clear/miou": 0.02})
    "Metric -> largest loss against the champion that is still allowed."


class Settings(_Section):
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

    def section(self, stage: str) -> _Section:
        """Return one stage's settings by the stage's name."""
        names = {field.alias or name: name for name, field in type(self).model_fields.items()}
        value = getattr(self, names[stage])
        assert isinstance(value, _Section), stage
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
