"""The products on disk: what the files say, that they are whole or absent, and that equal pixels give equal bytes."""

import fcntl
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from cgm2net import raster
from cgm2net.errors import RasterError
from cgm2net.files import sha256_file
from cgm2net.predict.products import Block, Origin, Products

BANDS = ("B02", "B03", "B04", "B08")
CLASSES = ("water", "broadleaf forest", "<fields & meadows>")
LAYERS = ("restored", "uncertainty", "classes", "confidence", "cloud", "origin")
TAGS = {"CGM2NET_MODEL": "cgm2net/3", "CGM2NET_COMMIT": "0123abc"}


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")


def block(height: int, width: int, *, seed: int = 0) -> Block:
    """Seeded pixels, smooth in the image, the upper left corner without data."""
    rng = np.random.default_rng(seed)
    made = Block(
        restored_CHW=rng.integers(800, 1200, (4, height, width), np.uint16),
        uncertainty_CHW=rng.integers(0, 300, (4, height, width), np.uint16),
        classes_HW=np.kron(rng.integers(0, 3, (height // 8 + 1, width // 8 + 1)), np.ones((8, 8)))[:height, :width]
        .astype(np.uint8),
        confidence_HW=rng.integers(100, 251, (height, width), np.uint8),
        cloud_HW=rng.integers(0, 251, (height, width), np.uint8),
        origin_HW=rng.integers(1, 4, (height, width), np.uint8),
    )  # fmt: skip
    corner = (..., slice(height // 4), slice(width // 4))
    for name, nodata in zip(LAYERS, (0, 65_535, 255, 255, 255, 0), strict=True):
        pixels(made, name)[corner] = nodata
    return made


def pixels(whole: Block, name: str) -> np.ndarray:
    return np.asarray(
        getattr(whole, f"{name}_CHW", None) if hasattr(whole, f"{name}_CHW") else getattr(whole, f"{name}_HW")
    )


def part(whole: Block, window: Window) -> Block:
    rows, columns = window.toslices()
    return Block(**{field: array[..., rows, columns] for field, array in vars(whole).items()})


def products(folder: Path, height: int, width: int) -> Products:
    return Products(folder, grid=grid(height, width), optical_bands=BANDS, classes=CLASSES, tags=TAGS)


def cuts(height: int, width: int, step: int) -> list[Window]:
    return [
        Window(left, top, min(step, width - left), min(step, height - top))
        for top in range(0, height, step)
        for left in range(0, width, step)
    ]


def write_whole(folder: Path, whole: Block) -> Path:
    height, width = whole.cloud_HW.shape
    with products(folder, height, width) as writer:
        writer.write(Window(0, 0, width, height), whole)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def large() -> Block:
    """Large enough for two overviews."""
    return block(1100, 1200)


@pytest.fixture(scope="module")
def scene(large: Block, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("out") / "scene", large)


@pytest.mark.parametrize("name", LAYERS)
def test_files_give_back_the_pixels_on_their_grid(scene: Path, large: Block, name: str) -> None:
    back = raster.read(scene / f"{name}.tif")
    np.testing.assert_array_equal(back.pixels_CHW.squeeze(), pixels(large, name))
    assert back.grid == grid(1100, 1200)
    assert not back.valid_HW[:275, :300].any()
    assert back.valid_HW[275:].all()


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_a_cloud_optimized_geotiff(scene: Path, name: str) -> None:
    valid, errors, warnings = cog_validate(str(scene / f"{name}.tif"), strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(scene / f"{name}.tif") as file:
        assert file.overviews(1) == [2, 4]
        assert file.block_shapes[0] == (512, 512)


def test_the_folder_holds_nothing_else(scene: Path) -> None:
    coded = [f"{name}{end}" for name in ("classes", "origin") for end in (".qml", ".tif.aux.xml")]
    assert names(scene) == sorted([*(f"{name}.tif" for name in LAYERS), *coded, "restored.qml"])
    assert names(scene.parent) == ["scene"]


@pytest.mark.parametrize(
    ("name", "dtype", "nodata", "scale", "unit", "bands"),
    [
        ("restored", "uint16", 0, 1e-4, "reflectance", BANDS),
        ("uncertainty", "uint16", 65_535, 1e-4, "reflectance", BANDS),
        ("classes", "uint8", 255, 1.0, None, ("class",)),
        ("confidence", "uint8", 255, 0.004, "probability", ("confidence",)),
        ("cloud", "uint8", 255, 0.004, "probability", ("cloud",)),
        ("origin", "uint8", 0, 1.0, None, ("origin",)),
    ],
)
def test_files_say_what_their_numbers_mean(
    scene: Path, name: str, dtype: str, nodata: int, scale: float, unit: str | None, bands: tuple[str, ...]
) -> None:
    with rasterio.open(scene / f"{name}.tif") as file:
        assert set(file.dtypes) == {dtype}
        assert file.nodata == nodata
        assert set(file.scales) == {scale}
        assert set(file.offsets) == {0}
        assert set(file.units) == {unit}
        assert file.descriptions == bands
        assert TAGS.items() <= file.tags().items()


def test_the_image_opens_in_true_colour(scene: Path) -> None:
    with rasterio.open(scene / "restored.tif") as file:
        assert file.colorinterp[:3] == (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    renderer = ElementTree.parse(scene / "restored.qml").getroot()[0][0]
    assert [renderer.get(f"{channel}Band") for channel in ("red", "green", "blue")] == ["3", "2", "1"]
    assert {element.text for element in renderer.iter("maxValue")} == {"0.3"}  # of reflectance


def test_planetscope_opens_in_true_colour_too(tmp_path: Path) -> None:
    names = ("blue", "green", "red", "nir")
    with Products(tmp_path / "s", grid=grid(64, 64), optical_bands=names, classes=CLASSES, tags=TAGS) as products:
        products.write(Window(0, 0, 64, 64), block(64, 64))
    with rasterio.open(tmp_path / "s/restored.tif") as file:
        assert file.colorinterp[:3] == (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    renderer = ElementTree.parse(tmp_path / "s/restored.qml").getroot()[0][0]
    assert [renderer.get(f"{channel}Band") for channel in ("red", "green", "blue")] == ["3", "2", "1"]


def test_codes_carry_colours_and_names(scene: Path) -> None:
    with rasterio.open(scene / "classes.tif") as file:
        colours = file.colormap(1)
        assert json.loads(file.tags(1)["CODES"]) == dict(zip("012", CLASSES, strict=True))
    assert colours[0] == (0x31, 0x82, 0xBD, 255)  # water
    assert colours[255][3] == 0
    sidecar = ElementTree.parse(scene / "classes.tif.aux.xml")
    assert [element.text for element in sidecar.iter("Category")] == list(CLASSES)
    style = ElementTree.parse(scene / "classes.qml").getroot()
    entries = [element.attrib for element in style.iter("paletteEntry")]
    assert [(entry["value"], entry["label"]) for entry in entries] == list(zip("012", CLASSES, strict=True))
    assert entries[0]["color"] == "#3182bd"
    with rasterio.open(scene / "origin.tif") as file:
        assert json.loads(file.tags(1)["CODES"])[str(Origin.RESTORED.value)] == "restored"


def test_overviews_average_images_and_choose_codes(tmp_path: Path) -> None:
    whole = block(600, 600)
    whole.restored_CHW[:] = 1000
    whole.restored_CHW[:, 301::2] = 2000  # every second row of the lower half
    whole.restored_CHW[:, :, 599] = 0
    whole.classes_HW[:] = 0
    whole.classes_HW[300:] = 2
    write_whole(tmp_path / "s", whole)
    with rasterio.open(tmp_path / "s" / "restored.tif", overview_level=0) as file:
        small = file.read(1)
    assert small.shape == (300, 300)
    assert set(np.unique(small[:150, :299])) == {1000}
    assert set(np.unique(small[150:, :299])) == {1500}
    assert set(np.unique(small[:150, 299])) == {1000}  # no data takes no part in the mean
    with rasterio.open(tmp_path / "s" / "classes.tif", overview_level=0) as file:
        assert set(np.unique(file.read(1))) == {0, 2}


@pytest.mark.parametrize("step", [64, 77, 192])
def test_bytes_depend_on_pixels_alone(tmp_path: Path, step: int) -> None:
    """However the scene is cut, and in whatever order the blocks come."""
    whole, (height, width) = block(300, 450), (300, 450)
    first = write_whole(tmp_path / "whole", whole)
    with products(tmp_path / "cut", height, width) as writer:
        for index in np.random.default_rng(step).permutation(len(cuts(height, width, step))):
            window = cuts(height, width, step)[index]
            writer.write(window, part(whole, window))
    assert names(first) == names(tmp_path / "cut")
    for name in names(first):
        assert sha256_file(first / name) == sha256_file(tmp_path / "cut" / name), name


def test_what_is_never_written_has_no_data(tmp_path: Path) -> None:
    whole = block(100, 200, seed=1)
    with products(tmp_path / "s", 100, 200) as writer:
        window = Window(120, 40, 30, 20)
        writer.write(window, part(whole, window))
    for name in LAYERS:
        back = raster.read(tmp_path / "s" / f"{name}.tif")
        assert back.valid_HW.sum() == 600
        np.testing.assert_array_equal(
            back.pixels_CHW.squeeze()[..., 40:60, 120:150], pixels(whole, name)[..., 40:60, 120:150]
        )


def test_files_are_finished_before_they_are_moved(tmp_path: Path) -> None:
    whole = block(70, 80)
    with products(tmp_path / "s", 70, 80) as writer:
        writer.write(Window(0, 0, 80, 70), whole)
        aside = writer.finish()
        assert raster.read(aside / "restored.tif").valid_HW.any()
        assert not (tmp_path / "s").exists()
        (aside / "item.json").write_text("{}")
    assert (tmp_path / "s" / "item.json").is_file()
    assert names(tmp_path) == ["s"]


def test_older_products_are_replaced_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "s", block(70, 80))
    (tmp_path / "s" / "item.json").write_text("{}")
    write_whole(tmp_path / "s", block(50, 60, seed=2))
    assert raster.read_grid(tmp_path / "s" / "restored.tif") == grid(50, 60)
    assert not (tmp_path / "s" / "item.json").exists()
    assert names(tmp_path) == ["s"]


@pytest.mark.parametrize("older", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, older: bool) -> None:
    if older:
        write_whole(tmp_path / "s", block(70, 80))
    before = {path: sha256_file(path) for path in tmp_path.rglob("*") if path.is_file()}

    def fail_late() -> None:
        with products(tmp_path / "s", 70, 80) as writer:
            writer.write(Window(0, 0, 80, 70), block(70, 80, seed=5))
            writer.finish()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_late()
    assert {path: sha256_file(path) for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == (["s"] if older else [])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("years of work")
    with pytest.raises(RasterError, match=r"s: is there already and holds no products"), products(tmp_path / "s", 7, 8):
        pass
    assert (tmp_path / "s" / "thesis.tex").read_text() == "years of work"


def test_what_a_killed_process_left_goes_and_what_another_works_on_stays(tmp_path: Path) -> None:
    for name in (".s.killed.part", ".s.working.part", ".other.killed.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "restored.raw.tif").write_bytes(b"half")
    lock = os.open(tmp_path / ".s.working.part", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_whole(tmp_path / "s", block(20, 30))
    finally:
        os.close(lock)
    assert names(tmp_path) == [".other.killed.part", ".s.working.part", "s"]


def test_a_killed_process_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_products as t; from pathlib import Path\n"
        "with t.products(Path(sys.argv[2]), 70, 80) as writer:\n"
        "    writer.write(t.Window(0, 0, 80, 70), t.block(70, 80)); writer.finish(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "s")], check=False)
    assert not (tmp_path / "s").exists()
    assert len(names(tmp_path)) == 1
    write_whole(tmp_path / "s", block(70, 80))
    assert names(tmp_path) == ["s"]


@contextmanager
def files_at_most(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond: what a full disk looks like to the one who writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("share", "flushed"), [(0.3, False), (0.3, True), (0.97, True)])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, share: float, flushed: bool) -> None:
    """The disk is full before, or after, what GDAL held back has reached it."""
    whole = block(600, 700)
    finished_bytes = (write_whole(tmp_path / "before", whole) / "restored.tif").stat().st_size

    def write() -> None:
        with products(tmp_path / "s", 600, 700) as writer:
            writer.write(Window(0, 0, 700, 600), whole)
            for file in writer._files.values() if flushed else ():
                file.close()
            with files_at_most(int(finished_bytes * share)):
                writer.finish()

    with pytest.raises(RasterError, match=r"restored.*tif"):
        write()
    assert names(tmp_path) == ["before"]


def test_blocks_that_overlap_are_found_out(tmp_path: Path) -> None:
    def write() -> None:
        with products(tmp_path / "s", 70, 80) as writer:
            writer.write(Window(0, 0, 80, 70), block(70, 80))
            writer.write(Window(10, 10, 20, 30), block(30, 20, seed=3))

    with pytest.raises(RasterError, match="did windows overlap"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("window", "made", "message"),
    [
        (Window(0, 0, 8, 8), block(8, 9), r"restored\.tif: block is \(4, 8, 9\) uint16, its window wants \(4, 8, 8\)"),
        (Window(73, 0, 8, 8), block(8, 8), r"columns 73 to 81, rows 0 to 8 to be written, the scene has 80x70 px"),
        (Window(0, -1, 8, 8), block(8, 8), r"rows -1 to 7"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(tmp_path: Path, window: Window, made: Block, message: str) -> None:
    with pytest.raises(RasterError, match=message), products(tmp_path / "s", 70, 80) as writer:
        writer.write(window, made)


def test_numbers_of_another_type_are_refused(tmp_path: Path) -> None:
    made = block(8, 8)
    wrong = Block(**vars(made) | {"cloud_HW": made.cloud_HW.astype(np.float32)})
    with (
        pytest.raises(RasterError, match=r"cloud\.tif: .* float32, .* uint8"),
        products(tmp_path / "s", 8, 8) as writer,
    ):
        writer.write(Window(0, 0, 8, 8), wrong)


def peak_mb(folder: Path, height: int) -> float:
    """Most memory of a process that writes a scene of 1024 columns and so many rows [MB]."""
    code = (
        "import sys, resource; sys.path.insert(0, sys.argv[1]); import test_products as t; from pathlib import Path\n"
        "height = int(sys.argv[3]); made = t.block(64, 1024)\n"
        "for pixels in vars(made).values(): pixels[:] = 1  # quickly compressed\n"
        "with t.products(Path(sys.argv[2]), height, 1024) as writer:\n"
        "    for top in range(0, height, 64): writer.write(t.Window(0, top, 1024, 64), made)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(height)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """Eight seconds: even the smaller scene's layers are larger than what GDAL may keep, 64 MB."""
    smaller, larger = peak_mb(tmp_path / "smaller", 6_144), peak_mb(tmp_path / "larger", 12_288)
    assert larger - smaller < 40  # the larger one has 126 MB more
