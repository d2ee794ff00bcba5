"""Writers of the data sets' exact layouts, small: the same names, types and traps, images of a few pixels."""

import warnings
from pathlib import Path

import numpy as np
import rasterio
import yaml
from affine import Affine
from click.testing import CliRunner, Result
from rasterio.errors import NotGeoreferencedWarning

from cgm2net.__main__ import main
from cgm2net.sensors import SENTINEL2

ROOT = Path(__file__).parents[3]
UTM = "EPSG:32633"
LOCAL = 'LOCAL_CS["unnamed",UNIT["metre",1]]'
SPECTRUM = {
    "B01": 0.9, "B02": 0.8, "B03": 1.0, "B04": 1.2, "B05": 1.4, "B06": 1.6, "B07": 1.7, "B08": 1.8, "B8A": 1.9,
    "B09": 0.7, "B10": 0.0, "B11": 2.2, "B12": 2.0,
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_params(**changes: object) -> None:
    """Write params.yaml of the project into the working directory, with `section__key` changed."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in ("download", "validate", "coregister"):
        params.setdefault(section, {})["num_workers"] = 1
    for name, value in changes.items():
        section, key = name.split("__")
        params[section][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(params))


def write(
    path: Path, pixels: np.ndarray, *, at: tuple[float, float], gsd: float, crs: str | None = UTM, **profile: object
) -> Path:
    """Write a GeoTIFF without band names, its upper-left corner at these coordinates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels_CHW = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = pixels_CHW.shape
    transform = Affine(gsd, 0, at[0], 0, -gsd, at[1]) if crs else Affine.identity()
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype.name, crs=crs,
        transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(pixels_CHW)
    return path


def ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return brightness of even ground with edges, DN about 300 to 2500."""
    fields = rng.integers(300, 2500, (6, 6))
    return np.kron(fields, np.ones((-(-size // 6),) * 2))[:size, :size] + rng.integers(0, 60, (size, size))


def decibel(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.stack([rng.normal(-11, 2, (size, size)), rng.normal(-18, 2, (size, size))])


M3M_PX = 60
WORLDCOVER = np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100], np.uint8)


def m3m_scene(root: Path, folder: str, season: str, aoi: str, k: int, *, place: int, seed: int = 0) -> None:
    """Write the five files of a scene of M3M-CR: 3 m optics, 10 m SAR and labels up to 2 m off, a mask without grid."""
    rng = np.random.default_rng([seed, place, k])
    at = (500_000 + 10_000 * place + 900.0 * k, 5_300_000.0)
    off = (at[0] - 2, at[1] + 1)
    coarse = M3M_PX * 3 // 10
    base = ground(rng, M3M_PX)
    clear = np.stack([base * factor for factor in (0.8, 1.0, 1.2, 1.9)]).astype(np.uint16)
    cloud = np.zeros((M3M_PX, M3M_PX), bool)
    cloud[:20, :25] = True
    cloudy = np.where(cloud, 7000, clear + 40).astype(np.uint16)

    def path(kind: str, suffix: str = ".tif") -> Path:
        area = f"{kind}_{season}_{aoi}"
        return root / folder / f"{kind}_{season}" / area / f"{area}_p_{k}{suffix}"

    write(path("planet_cloudfree"), clear, at=at, gsd=3, nodata=0)
    write(path("planet_cloudy"), cloudy, at=at, gsd=3, nodata=0)
    write(path("S1"), decibel(rng, coarse), at=off, gsd=10)
    write(path("landcover"), np.resize(WORLDCOVER, (coarse, coarse)), at=off, gsd=10)
    mask = path("cloudmask", ".npy")
    mask.parent.mkdir(parents=True, exist_ok=True)
    np.save(mask, cloud)


def m3m_line(season: str, aoi: str, k: int) -> str:
    """Return a line of a split list: cloudfree, cloudy, S1, landcover, cloudmask."""
    kinds = ("planet_cloudfree", "planet_cloudy", "S1", "landcover", "cloudmask")
    names = ((kind, f"{kind}_{season}_{aoi}", "npy" if kind == "cloudmask" else "tif") for kind in kinds)
    return ",".join(f"{kind}_{season}/{area}/{area}_p_{k}.{suffix}" for kind, area, suffix in names)


LUOJIA_PX = 48
BINS = ("0-20%", "20%-40%", "40%-60%", "60%-80%", "80%-100%")
LUOJIA_FILES = {
    "s1": "s1", "s2": "s2", "s2_cloudy": "s2_cloudy", "cloud_detection_results": "s2_cloudy", "land_cover_maps": "s2",
}  # fmt: skip


def luojia_path(root: Path, cover: str, folder: str, rr: str, n: int) -> Path:
    return root / cover / folder / f"ROIs_{rr}_{LUOJIA_FILES[folder]}_p{n}.tif"


def luojia_pixels(cover: str, rr: str, n: int, *, offset: int = 1000) -> dict[str, np.ndarray]:
    """Return the five arrays of a sample of LuojiaSET-OSFCR by folder."""
    rng = np.random.default_rng([BINS.index(cover), int(rr), n])
    base = ground(rng, LUOJIA_PX)
    clear = np.stack([base * SPECTRUM[band.name] + 9 + offset for band in SENTINEL2]).astype(np.uint16)
    cloud = np.zeros((LUOJIA_PX, LUOJIA_PX), np.float32)
    cloud[: 8 + 8 * BINS.index(cover)] = 1
    cloudy = np.where(cloud > 0, 6000 + offset, clear + 25)
    cloudy[10] = 15 + offset  # low cloud: no cirrus
    return {
        "s1": decibel(rng, LUOJIA_PX).astype(np.float32), "s2": clear, "s2_cloudy": cloudy.astype(np.uint16),
        "cloud_detection_results": cloud[None],
        "land_cover_maps": np.resize(np.arange(7, dtype=np.uint8), (1, LUOJIA_PX, LUOJIA_PX)),
    }  # fmt: skip


def luojia_sample(root: Path, cover: str, rr: str, n: int, *, offset: int = 1000) -> None:
    """Write a sample: S1 off by 3.7 m E and 4.1 m S, land cover in an anonymous CRS."""
    at = (400_000.0 + 5_000 * int(rr) + 2_560 * n, 4_000_000.0)
    for folder, pixels in luojia_pixels(cover, rr, n, offset=offset).items():
        where = (at[0] + 3.7, at[1] - 4.1) if folder == "s1" else at
        crs = LOCAL if folder == "land_cover_maps" else UTM
        write(luojia_path(root, cover, folder, rr, n), pixels, at=where, gsd=10, crs=crs)


SEN12_PX = 32
STARTS = {
    "spring": "ROIs1158_spring",
    "summer": "ROIs1868_summer",
    "fall": "ROIs1970_fall",
    "winter": "ROIs2017_winter",
}


def sen12_path(root: Path, season: str, modality: str, roi: int, n: int) -> Path:
    start = f"{STARTS[season]}_{modality}"
    return root / start / f"{modality}_{roi}" / f"{start}_{roi}_p{n}.tif"


def sen12_scene(root: Path, season: str, roi: int, n: int) -> None:
    rng = np.random.default_rng([roi, n])
    base = ground(rng, SEN12_PX)
    clear = np.stack([base * SPECTRUM[band.name] + 9 for band in SENTINEL2]).astype(np.uint16)
    at = (300_000.0 + 400 * n, 6_000_000.0)
    write(sen12_path(root, season, "s1", roi, n), decibel(rng, SEN12_PX).astype(np.float32), at=at, gsd=10)
    write(sen12_path(root, season, "s2", roi, n), clear, at=at, gsd=10)
    write(sen12_path(root, season, "s2_cloudy", roi, n), clear + np.uint16(3000), at=at, gsd=10)
