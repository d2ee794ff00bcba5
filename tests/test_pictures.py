from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cgm2net import pictures

CLASSES = ("water", "forest", "agriculture", "urban")


def sample(seed: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    return {
        "id": f"tile{seed}",
        "optical_CHW": rng.uniform(0, 1, (4, 32, 32)),
        "sar_CHW": rng.uniform(0, 1, (2, 32, 32)),
        "cloud_HW": rng.uniform(0, 1, (32, 32)),
        "clear_CHW": rng.uniform(0, 0.3, (4, 32, 32)),
        "label_HW": rng.integers(0, 4, (16, 16)),  # coarser than the pixels
    }


def draw(samples: list[dict[str, object]], path: Path) -> np.ndarray:
    pictures.draw_tiles(
        samples, path, optical_bands=("B02", "B03", "B04", "B08"), sar_bands=("VV", "VH"), classes=CLASSES
    )
    return np.asarray(imread(path))


def test_true_colour_picks_bands_by_name_and_stretches_alike() -> None:
    optical = np.zeros((4, 1, 1))
    optical[2] = 0.30  # B04
    optical[1] = 0.15
    shown = pictures.true_colour(optical, ("B02", "B03", "B04", "B08"))
    assert shown[0, 0].tolist() == pytest.approx([1.0, 0.5 ** (1 / 1.4), 0.0])
    assert pictures.true_colour(optical * 9, ("B02", "B03", "B04", "B08")).max() == 1.0


def test_true_colour_goes_by_colour_whatever_the_sensor() -> None:
    assert pictures.true_colour_bands(("B08", "B02", "B03", "B04")) == ("B04", "B03", "B02")
    assert pictures.true_colour_bands(("blue", "green", "red", "nir")) == ("red", "green", "blue")
    assert pictures.true_colour_bands(("blue", "green", "nir")) == ()
    optical = np.array([0.0, 0.15, 0.30, 0.9]).reshape(4, 1, 1)
    shown = pictures.true_colour(optical, ("blue", "green", "red", "nir"))
    assert shown[0, 0].tolist() == pytest.approx([1.0, 0.5 ** (1 / 1.4), 0.0])


def test_true_colour_without_the_visible_bands() -> None:
    optical = np.array([0.3, 0.0, 0.0]).reshape(3, 1, 1)
    assert pictures.true_colour(optical, ("B08", "B11", "B12"))[0, 0].tolist() == [1.0, 0.0, 0.0]
    assert pictures.true_colour(optical[:1], ("B08",))[0, 0].tolist() == [1.0, 1.0, 1.0]


def test_sar_composite_by_hand() -> None:
    # VV -11 dB and VH -16.5 dB lie halfway; their ratio of 5.5 dB at 7.5 / 22
    unit = np.array([(-11 + 25) / 25, (-16.5 + 32.5) / 32.5]).reshape(2, 1, 1)
    assert pictures.sar_composite(unit, ("VV", "VH"))[0, 0].tolist() == pytest.approx([0.5, 0.5, 7.5 / 22], abs=1e-5)
    assert np.array_equal(pictures.sar_composite(unit[::-1], ("VH", "VV")), pictures.sar_composite(unit, ("VV", "VH")))
    assert pictures.sar_composite(unit[:1], ("VV",))[0, 0].tolist() == pytest.approx([0.56] * 3)


@pytest.mark.parametrize(
    "classes", [CLASSES, ("broadleaf forest", "needle forest", "x"), tuple(f"class {i}" for i in range(30))]
)
def test_class_colours_are_distinct_and_fixed(classes: tuple[str, ...]) -> None:
    colours = pictures.class_colours(classes)
    assert len({*colours, pictures.UNLABELLED_COLOUR}) == len(classes) + 1
    assert colours == pictures.class_colours(list(classes))


def test_a_class_keeps_its_colour_wherever_it_stands() -> None:
    assert pictures.class_colours(CLASSES)[0] == pictures.class_colours(CLASSES[::-1])[3]


def test_class_map_shows_other_codes_as_unlabelled() -> None:
    shown = pictures.class_map(np.array([[0, 255, 4]]), CLASSES)
    unlabelled = [0xEF / 255] * 3
    assert shown[0, 1].tolist() == shown[0, 2].tolist() == unlabelled
    assert shown[0, 0].tolist() == [0x31 / 255, 0x82 / 255, 0xBD / 255]


def test_equal_tiles_give_equal_bytes(tmp_path: Path) -> None:
    draw([sample(), sample(1)], tmp_path / "a.png")
    draw([sample(), sample(1)], tmp_path / "b.png")
    draw([sample(), sample(2)], tmp_path / "c.png")
    first, again, other = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == again != other
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png", "c.png"]  # no part files


def test_panels_follow_the_sample(tmp_path: Path) -> None:
    plain = draw([sample()], tmp_path / "plain.png")
    more = {"restored_CHW": np.zeros((4, 32, 32)), "predicted_HW": np.zeros((32, 32), int)}
    predicted = draw([sample() | more], tmp_path / "predicted.png")
    assert predicted.shape[1] - plain.shape[1] == pytest.approx(2 * 1.7 * pictures.DPI, abs=2)
    colours = {tuple(np.rint(pixel * 255).astype(int)) for pixel in plain[..., :3].reshape(-1, 3)}
    assert (0x31, 0x82, 0xBD) in colours  # water, in map and legend
