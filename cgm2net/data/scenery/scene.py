"""A synthetic scene: its specification, grids and five rasters. Axes: C bands, H, W pixels."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date as Date
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from scipy import ndimage

from cgm2net.data.scenery import clouds, landscape, radiometry
from cgm2net.raster import Raster
from cgm2net.sensors import BASELINE_OFFSET_DN

GSD_M = 10.0
CRS = "EPSG:32632"
WRONG_CRS = "EPSG:32635"

MAX_SHIFT_PX = 4.0
SAR_MARGIN_PX = 8
"""How much farther than the optics the SAR image reaches on every side."""

_MARGIN_PX = 20  # of the landscape around the optical frame: SAR margin, shift, half a pixel, interpolation

Defect = Literal["none", "wrong_crs", "offset_1000", "bands_swapped", "truncated", "sar_linear", "reference_identical"]
DEFECTS: tuple[Defect, ...] = (
    "wrong_crs", "offset_1000", "bands_swapped", "truncated", "sar_linear", "reference_identical",
)  # fmt: skip


def _two_numbers(value: object) -> object:
    return tuple(value.split(",")) if isinstance(value, str) else value


_Shift = Annotated[float, Field(ge=-MAX_SHIFT_PX, le=MAX_SHIFT_PX)]


class SceneSpec(BaseModel):
    """Everything that a synthetic scene depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    region: Annotated[int, Field(ge=0, le=9999)]
    "Number of the landscape."
    date: Date
    "Day of the optical image."
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    "One seed is one world: other landscapes for the same regions."
    size_px: Annotated[int, Field(ge=64, le=4096)] = 384
    "Height and width of the optical image."
    cover: Annotated[float, Field(ge=0, le=0.95)] = 0.4
    "Share of pixels under cloud or shadow, reached to about 0.01 (a wedge is not counted out)."
    shift: Annotated[tuple[_Shift, _Shift], BeforeValidator(_two_numbers)] = (0.0, 0.0)
    """SAR geocoding error (dx, dy) [px of 10 m]: content appears dx pixels to the right and dy pixels down of where its
    grid says; correcting means moving it by (-dx, -dy)."""
    looks: Annotated[float, Field(gt=0.5, le=1e6)] = 4.4
    "Equivalent number of looks of the SAR speckle."
    sar_days: Annotated[int, Field(ge=-60, le=60)] = 1
    "Days from the optical to the SAR image."
    reference_days: Annotated[int, Field(ge=-60, le=60)] = 9
    "Days from the optical to the clear reference image."
    wedge: Literal["none", "optical", "sar"] = "none"
    "Image cut by the slanted edge of a swath: nodata beyond it."
    defect: Defect = "none"
    "What is wrong with the files, on purpose."


def _rng(spec: SceneSpec, stream: str, *days: Date) -> np.random.Generator:
    """Return the generator of one random part of a scene; parts do not disturb one another."""
    return np.random.default_rng([spec.seed, spec.region, *stream.encode(), 0, *(day.toordinal() for day in days)])


@lru_cache(maxsize=1)
def _ground(seed: int, region: int, *, size_px: int) -> radiometry.Ground:
    """Return a region's ground, with the margin around the optical frame."""
    landscape_rng, ground_rng = (np.random.default_rng([seed, region, k]) for k in range(2))
    return radiometry.make_ground(landscape.make_landscape(landscape_rng, size_px=size_px + 2 * _MARGIN_PX), ground_rng)


def optical_grid(spec: SceneSpec) -> GeoBox:
    """Return the grid of a region's optical images; regions lie 20 km apart."""
    row, column = divmod(spec.region, 20)
    corner = Affine(GSD_M, 0, 300_000 + 20_000 * column, 0, -GSD_M, 5_400_000 - 20_000 * row)
    return GeoBox((spec.size_px, spec.size_px), corner, CRS)


def sar_grid(spec: SceneSpec) -> GeoBox:
    """Return the grid of a scene's SAR image: 10 m too, larger by a margin, off by a fraction of a pixel."""
    x, y = _sar_origin_px(spec)
    size = spec.size_px + 2 * SAR_MARGIN_PX
    corner = optical_grid(spec).transform
    return GeoBox((size, size), Affine(GSD_M, 0, corner.c + GSD_M * x, 0, -GSD_M, corner.f - GSD_M * y), CRS)


def _sar_origin_px(spec: SceneSpec) -> tuple[float, float]:
    x, y = np.round(_rng(spec, "sar grid", spec.date).uniform(0.1, 0.9, 2), 2)
    return float(x) - SAR_MARGIN_PX, float(y) - SAR_MARGIN_PX


@lru_cache(maxsize=1)
def render(spec: SceneSpec) -> dict[str, Raster]:
    """Return the five rasters of a scene by role, with their defects, except those of the file alone (truncated).

    Returns:
        ``optical`` and ``reference`` uint16 (6, H, W) reflectance x 10000; ``sar`` float32 (2, H', W') in dB;
        ``label`` uint8 (1, H, W) class codes 0 forest, 1 rangeland, 2 agriculture, 3 urban, 4 barren, 5 water;
        ``cloud`` uint8 (1, H, W), 1 where cloud or shadow changes the pixel (:attr:`CloudLayer.mask`).
        Arrays are read-only: calls with one spec share them.
    """
    ground = _ground(spec.seed, spec.region, size_px=spec.size_px)
    cloud_layer = clouds.make_clouds(
        _rng(spec, "clouds", spec.date), size_px=spec.size_px, cover=spec.cover, sun=radiometry.sun_at(spec.date)
    )
    grid = optical_grid(spec)
    frame = (slice(_MARGIN_PX, _MARGIN_PX + spec.size_px),) * 2
    rasters = {
        "optical": _optical(spec, ground, day=spec.date, grid=grid, layer=cloud_layer),
        "reference": _optical(spec, ground, day=spec.date + timedelta(spec.reference_days), grid=grid, layer=None),
        "sar": _sar(spec, ground),
        "label": _raster(ground.landscape.label_HW[frame][None], ("label",), grid),
        "cloud": _raster(cloud_layer.mask().astype(np.uint8)[None], ("cloud",), grid),
    }
    if spec.wedge != "none":
        cut = rasters[spec.wedge]
        rasters[spec.wedge] = replace(cut, valid_HW=~_wedge(_rng(spec, "wedge", spec.date), cut.valid_HW.shape))
    rasters = _break(rasters, spec.defect)
    for made in rasters.values():
        made.pixels_CHW.flags.writeable = False
        made.valid_HW.flags.writeable = False
    return rasters


def _raster(pixels_CHW: np.ndarray, bands: Sequence[str], grid: GeoBox) -> Raster:
    valid = np.ones(pixels_CHW.shape[1:], bool)
    return Raster(pixels_CHW=np.ascontiguousarray(pixels_CHW), valid_HW=valid, bands=tuple(bands), grid=grid)


def _optical(
    spec: SceneSpec, ground: radiometry.Ground, *, day: Date, grid: GeoBox, layer: clouds.CloudLayer | None
) -> Raster:
    """Return an optical image of a day, cloudy where a layer is given."""
    surface = radiometry.surface_reflectance(ground, day=day, rng=_rng(spec, "surface", day))
    surface = surface[:, _MARGIN_PX : _MARGIN_PX + spec.size_px, _MARGIN_PX : _MARGIN_PX + spec.size_px]
    seen = surface if layer is None else clouds.see_through(surface, layer)
    pixels = radiometry.optical_image(seen, rng=_rng(spec, "optical noise", day))
    return _raster(pixels, radiometry.OPTICAL_BANDS, grid)


def _sar(spec: SceneSpec, ground: radiometry.Ground) -> Raster:
    """Return the SAR image: backscatter seen through the sensor's blur, resampled to its grid, speckled, in dB."""
    day = spec.date + timedelta(spec.sar_days)
    power = radiometry.backscatter(ground, day=day, rng=_rng(spec, "backscatter", day), looks_east=spec.region % 2 == 0)
    (x, y), (dx, dy) = _sar_origin_px(spec), spec.shift
    grid = sar_grid(spec)
    size = grid.shape[0]
    # Pixel i of this grid shows what truly lies at x + i - dx in pixels of the optical grid.
    true_y, true_x = (np.arange(size) + _MARGIN_PX + start - moved for start, moved in ((y, dy), (x, dx)))
    seen = np.stack([_sample(ndimage.gaussian_filter(p, 0.6), true_y, true_x) for p in power])
    seen *= radiometry.speckle(_rng(spec, "speckle", day), seen.shape, looks=spec.looks)
    # A hundredth of a dB is far below speckle; rounding halves the file.
    return _raster(np.round(10 * np.log10(seen), 2).astype(np.float32), radiometry.SAR_BANDS, grid)


def _sample(image_HW: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the image at rows ``y`` and columns ``x`` (evenly spaced by 1), bilinear; float32."""
    row, column = int(np.floor(y[0])), int(np.floor(x[0]))
    v, u = np.float32(y[0] - row), np.float32(x[0] - column)
    part = image_HW[row : row + len(y) + 1, column : column + len(x) + 1]
    part = part[:-1] * (1 - v) + part[1:] * v
    return np.asarray(part[:, :-1] * (1 - u) + part[:, 1:] * u, np.float32)


def _wedge(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return bool (H, W): the side beyond a slanted straight edge, 6 to 16 % of the image."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = np.radians(rng.choice([0, 180]) + rng.uniform(8, 18))
    across = x * np.cos(angle) + y * np.sin(angle)
    return np.asarray(across < np.quantile(across, rng.uniform(0.06, 0.16)))


def _break(rasters: dict[str, Raster], defect: Defect) -> dict[str, Raster]:
    """Return the rasters of a scene with something wrong."""
    optical, reference, sar = rasters["optical"], rasters["reference"], rasters["sar"]
    match defect:
        case "wrong_crs":
            grid = GeoBox(optical.grid.shape, optical.grid.transform, WRONG_CRS)
            return {**rasters, "optical": replace(optical, grid=grid)}
        case "offset_1000":
            offset = np.uint16(BASELINE_OFFSET_DN)
            return {
                **rasters,
                "optical": replace(optical, pixels_CHW=optical.pixels_CHW + offset),
                "reference": replace(reference, pixels_CHW=reference.pixels_CHW + offset),
            }
        case "bands_swapped":
            order = [{"B02": "B08", "B08": "B02"}.get(name, name) for name in optical.bands]
            return {**rasters, "optical": replace(optical, pixels_CHW=optical.select(order).pixels_CHW)}
        case "sar_linear":
            return {**rasters, "sar": replace(sar, pixels_CHW=(10 ** (sar.pixels_CHW / 10)).astype(np.float32))}
        case "reference_identical":
            return {**rasters, "reference": replace(optical)}
        case "none" | "truncated":
            return rasters
