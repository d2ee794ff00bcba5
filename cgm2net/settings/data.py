"""Sections of the stages that turn a catalogue into tiles."""

from collections.abc import Collection
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cgm2net.sensors import BANDS, COMMON_NAMES
from cgm2net.settings.section import Count, Positive, Section, Share


class _OverScenes(Section):
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
    max_error_px: Positive = 0.5
    "How well the consensus must be known: windows drawn anew find it no farther off, 9 of 10 times."

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
    "`given` takes the catalogue's mask and refuses scenes without one; `given_or_simple` reads a Sentinel-2 scene"
    " classification there as one, and falls back to the rule where there is nothing."
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
