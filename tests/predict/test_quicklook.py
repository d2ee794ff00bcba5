"""The picture of a scene: what it shows of the finished files, and that equal files give equal bytes."""

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net.errors import RasterError
from cgm2net.model.calibration import Calibration
from cgm2net.model.network import NetworkConfig
from cgm2net.pictures import class_colours
from cgm2net.predict.layers import ORIGINS, Block, Origin
from cgm2net.predict.products import Products
from cgm2net.predict.quicklook import NODATA_COLOUR, draw_quicklook
from cgm2net.weights import Card

BANDS = ("B02", "B03", "B04")
CLASSES = ("water", "forest", "crops")
CARD = Card(
    config=NetworkConfig(num_optical_bands=3, num_sar_bands=2, num_classes=3), optical_bands=BANDS,
    sar_bands=("VV", "VH"), classes=CLASSES, gsd_m=10.0, data_hash="0" * 64, seed=0, steps=1, num_parameters=1,
    library_version="0", calibration=Calibration(interval_clear=(1.0,) * 3, interval_cloudy=(2.0,) * 3),
)  # fmt: skip

RESTORED_SHOWN = (0.1 / 0.3) ** (1 / 1.4)
"""How bright reflectance 0.1 is shown."""


def products(folder: Path, shape: tuple[int, int], *, origin: int = Origin.RESTORED, classes: int = 0) -> Path:
    """A scene of one colour a layer; its top quarter has no data."""
    grid = GeoBox(shape, Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
    made = Block(
        restored_CHW=np.full((3, *shape), 1000, np.uint16), uncertainty_CHW=np.full((3, *shape), 500, np.uint16),
        classes_HW=np.full(shape, classes, np.uint8), confidence_HW=np.full(shape, 200, np.uint8),
        cloud_HW=np.full(shape, 250, np.uint8), origin_HW=np.full(shape, origin, np.uint8),
    )  # fmt: skip
    for pixels, nodata in zip(vars(made).values(), (0, 65_535, 255, 255, 255, 0), strict=True):
        pixels[..., : shape[0] // 4, :] = nodata
    with Products(folder, grid=grid, optical_bands=BANDS, classes=CLASSES, tags={}) as writer:
        writer.write(Window(0, 0, shape[1], shape[0]), made)
    return folder


def draw(folder: Path, shape: tuple[int, int], *, title: str = "s") -> np.ndarray:
    cloudy_CHW = np.full((3, *shape), 0.9, np.float32)
    cloudy_CHW[:, : shape[0] // 4] = 0
    path = draw_quicklook(folder, cloudy_CHW=cloudy_CHW, card=CARD, title=title)
    assert path == folder / "quicklook.png"
    return np.asarray(imread(path))[..., :3]


def share(picture: np.ndarray, colour: object) -> float:
    """Share of the pixels that have a colour."""
    return float((np.abs(picture - np.asarray(to_rgb(colour))).max(axis=-1) < 0.004).mean())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return products(tmp_path_factory.mktemp("out") / "s", (400, 400))


def test_every_layer_is_shown_in_its_colours(folder: Path) -> None:
    picture = draw(folder, (400, 400))
    panel = share(picture, class_colours(CLASSES)[0])  # land cover: all water but for the quarter without data
    assert panel > 0.07
    assert share(picture, (RESTORED_SHOWN,) * 3) == pytest.approx(panel, rel=0.02)  # restored
    assert share(picture, ORIGINS[Origin.RESTORED][1]) == pytest.approx(panel, rel=0.02)
    assert share(picture, NODATA_COLOUR) == pytest.approx(6 * panel / 3, rel=0.02)  # a quarter of each of six panels


def test_the_key_names_every_class_and_the_origins_that_there_are(folder: Path) -> None:
    picture = draw(folder, (400, 400))
    for colour in class_colours(CLASSES):
        assert share(picture, colour) > 0
    assert share(picture, ORIGINS[Origin.NO_SAR][1]) == 0


def test_origins_are_told_apart(tmp_path: Path, folder: Path) -> None:
    picture = draw(products(tmp_path / "s", (400, 400), origin=Origin.NO_SAR), (400, 400))
    assert share(picture, ORIGINS[Origin.NO_SAR][1]) > 0.07
    assert share(picture, ORIGINS[Origin.RESTORED][1]) == 0


@pytest.mark.parametrize("shape", [(60, 600), (600, 60), (37, 41)])
def test_scenes_of_any_shape_keep_their_proportions(tmp_path: Path, shape: tuple[int, int]) -> None:
    picture = draw(products(tmp_path / "s", shape), shape)
    restored = np.abs(picture - RESTORED_SHOWN).max(axis=-1) < 0.004
    tall = restored.sum(axis=0)
    height, width = tall.max(), (tall > tall.max() / 2).sum()  # of the one panel with this colour
    drawn_rows = shape[0] - shape[0] // 4
    assert height / width == pytest.approx(drawn_rows / shape[1], rel=0.1)


def test_a_large_scene_is_drawn_from_its_overviews(tmp_path: Path) -> None:
    folder = products(tmp_path / "s", (1200, 800))
    picture = draw(folder, (300, 200))
    assert share(picture, class_colours(CLASSES)[0]) > 0.03
    assert max(picture.shape) < 2000


def test_equal_files_give_equal_bytes(folder: Path) -> None:
    draw(folder, (400, 400))
    first = (folder / "quicklook.png").read_bytes()
    draw(folder, (400, 400))
    assert (folder / "quicklook.png").read_bytes() == first
    draw(folder, (400, 400), title="another")
    assert (folder / "quicklook.png").read_bytes() != first


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"restored\.tif: cannot be read as a raster"):
        draw(tmp_path, (8, 8))
