"""Tiles: the split by region, what is cut, what is refused, and the store as a whole."""

import hashlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from affine import Affine
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from cgm2net import raster
from cgm2net.catalog import COLUMNS, read_scenes, write_scenes
from cgm2net.data.dataset import ARRAYS, BOUNDS, TileDataset
from cgm2net.data.split import SPLITS, split_regions
from cgm2net.data.tile import TILES_A_SHARD, TileReport, tile
from cgm2net.errors import DataError, GridError
from cgm2net.files import read_json
from cgm2net.grids import coarser
from cgm2net.raster import Raster
from cgm2net.settings import TileSettings
from cgm2net.training.crops import Crops

SETTINGS = TileSettings(num_workers=1, size_px=32, stride_px=32, classes=("land", "water", "ice"), max_nodata_share=0.2)
OPTICAL, SAR = ("B02", "B03", "B04"), ("VV", "VH")
NODATA = {"optical": 0, "reference": 0, "sar": float("nan"), "label": 255, "cloud": None}
SCENES = Path("artifacts/cloudmask/scenes.csv")
OUT = Path("artifacts/tile")


def layers(seed: int, *, height: int = 64, width: int = 96, wedge_px: int = 0) -> dict[str, Raster]:
    """Return a scene of noise; the first ``wedge_px`` columns of the optical image are not measured."""
    rng = np.random.default_rng(seed)
    grid = GeoBox((height, width), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632")
    valid = np.ones((height, width), bool)
    wedge = valid.copy()
    wedge[:, :wedge_px] = False
    shape = (height, width)
    made = {
        "optical": (rng.integers(1, 10_000, (3, *shape), np.uint16), OPTICAL, wedge),
        "reference": (rng.integers(1, 10_000, (3, *shape), np.uint16), OPTICAL, valid),
        "sar": (rng.normal(-12, 4, (2, *shape)).astype(np.float32), SAR, valid),
        "label": (rng.choice(np.array([0, 1, 2, 3, 7, 255], np.uint8), (1, *shape)), ("label",), valid),
        "cloud": (rng.random((1, *shape), np.float32), ("cloud",), valid),
    }
    return {
        role: Raster(pixels_CHW=pixels, valid_HW=mask.copy(), bands=bands, grid=grid)
        for role, (pixels, bands, mask) in made.items()
    }


def scene(scene_id: str, region: str, made: dict[str, Raster] | None = None) -> dict[str, object]:
    """Write a scene's files; return its row."""
    seed = int.from_bytes(hashlib.sha256(scene_id.encode()).digest()[:4])
    folder = SCENES.parent.resolve() / scene_id
    folder.mkdir(parents=True, exist_ok=True)
    row: dict[str, object] = {**dict.fromkeys(COLUMNS, ""), "scene_id": scene_id, "region": region}
    for role, layer in (made or layers(seed)).items():
        raster.write(folder / f"{role}.tif", layer, nodata=NODATA[role])
        row[role] = str(folder / f"{role}.tif")
    return {**row, "accepted": True, "reason": ""}


def run(
    rows: list[dict[str, object]], settings: TileSettings = SETTINGS, *, seed: int = 0, out: Path = OUT
) -> TileReport:
    write_scenes(pd.DataFrame(rows), SCENES)
    return tile(SCENES, out, settings=settings, seed=seed)


@pytest.fixture
def rows(workspace: Path) -> list[dict[str, object]]:
    """Five scenes of four regions; six tiles each."""
    return [scene(f"s{k}", f"r{min(k, 3)}") for k in range(5)]


def stored(out: Path = OUT) -> dict[str, np.ndarray]:
    group = zarr.open_group(out / "tiles.zarr", mode="r")
    return {name: np.asarray(group[name]) for name in ARRAYS}


def test_every_tile_is_its_place_in_the_source(rows: list[dict[str, object]]) -> None:
    report = run(rows)
    arrays, table = stored(), pd.read_parquet(OUT / "tiles.parquet")
    assert report.scenes == 5
    assert report.train + report.val + report.test == len(table) == 30
    assert table["tile_id"].is_unique
    sources = {row["scene_id"]: {role: raster.read(Path(str(row[role]))) for role in NODATA} for row in rows}
    for k, line in enumerate(table.to_dict("records")):
        source = sources[line["scene_id"]]
        place = np.s_[..., line["row_px"] : line["row_px"] + 32, line["column_px"] : line["column_px"] + 32]
        for role in ("optical", "reference"):
            np.testing.assert_array_equal(arrays[role][k], source[role].pixels_CHW[place])
        np.testing.assert_array_equal(arrays["sar"][k], source["sar"].pixels_CHW[place])
        label = source["label"].pixels_CHW[0][place]
        np.testing.assert_array_equal(arrays["label"][k], np.where(label < 3, label, 255))
        np.testing.assert_allclose(
            arrays["cloud"][k] / 255, source["cloud"].pixels_CHW[0][place], atol=0.5 / 255 + 1e-6
        )
        assert arrays["valid"][k].all()
        assert line["tile_id"] == f"{line['scene_id']}_{line['row_px']}_{line['column_px']}"
        assert line["region"] == {"s0": "r0", "s1": "r1", "s2": "r2"}.get(line["scene_id"], "r3")
        assert [line[f"count_{code}"] for code in range(3)] == [(label == code).sum() for code in range(3)]
        assert line["cloud_cover"] == pytest.approx((arrays["cloud"][k] > 127.5).mean())
    assert {name: str(array.dtype) for name, array in arrays.items()} == {
        "optical": "uint16", "sar": "float32", "reference": "uint16", "cloud": "uint8", "label": "uint8",
        "valid": "bool",
    }  # fmt: skip


def test_the_table_says_where_on_earth_a_tile_lies(rows: list[dict[str, object]]) -> None:
    run(rows)
    table = pd.read_parquet(OUT / "tiles.parquet").set_index("tile_id")
    first, right, below = (table.loc[f"s0_{place}", list(BOUNDS)] for place in ("0_0", "0_32", "32_0"))
    # easting 500 km of UTM 32N is 9 degrees east; 320 m are 0.00407 degrees of longitude at 45.15 north
    assert first["west"] == pytest.approx(9.0, abs=1e-6)
    assert first["east"] - first["west"] == pytest.approx(0.320 / (111.32 * np.cos(np.radians(45.15))), rel=0.01)
    assert first["north"] - first["south"] == pytest.approx(0.320 / 111.13, rel=0.01)
    assert right["west"] == pytest.approx(first["east"], abs=1e-6)
    assert below["north"] == pytest.approx(first["south"], abs=1e-6)


def test_what_the_store_tells_of_itself(rows: list[dict[str, object]]) -> None:
    run(rows)
    meta = read_json(OUT / "meta.json")
    assert meta.pop("data_hash")
    assert meta == {
        "optical_bands": list(OPTICAL), "sar_bands": list(SAR), "classes": ["land", "water", "ice"], "gsd_m": 10.0,
        "size_px": 32, "label_share": "1",
    }  # fmt: skip
    assert (OUT / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in OUT.iterdir()) == [
        "meta.json", "samples.png", "scenes.csv", "tiles.parquet", "tiles.zarr",
    ]  # fmt: skip


def test_strides_overlap_and_the_last_tiles_lie_flush_with_the_edges(workspace: Path) -> None:
    rows = [scene(f"s{k}", f"r{k}", layers(k, height=60, width=96)) for k in range(3)]
    run(rows, SETTINGS.model_copy(update={"stride_px": 16}))
    table = pd.read_parquet(OUT / "tiles.parquet")
    mine = table[table["scene_id"] == "s0"]
    expected = [(row, column) for row in (0, 16, 28) for column in (0, 16, 32, 48, 64)]
    assert list(zip(mine["row_px"], mine["column_px"], strict=True)) == expected


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_equal_inputs_give_equal_bytes(rows: list[dict[str, object]]) -> None:
    first = run(rows)
    second = run(rows[::-1], out=Path("artifacts/again"))
    assert (first.from_cache, second.from_cache) == (0, 5)
    assert bytes_of(OUT) == bytes_of(Path("artifacts/again"))
    content = bytes_of(OUT)
    assert run(rows).train == first.train  # once more into the same folder
    assert bytes_of(OUT) == content


def test_one_changed_pixel_is_another_data_hash(rows: list[dict[str, object]]) -> None:
    run(rows)
    before = read_json(OUT / "meta.json")["data_hash"]
    path = Path(str(rows[4]["cloud"]))
    cloud = raster.read(path)
    cloud.pixels_CHW[0, 0, 0] = 1.0 - cloud.pixels_CHW[0, 0, 0]
    raster.write(path, cloud, nodata=None)
    assert run(rows).from_cache == 4
    assert read_json(OUT / "meta.json")["data_hash"] != before


def test_shards_hold_the_tiles_of_several_scenes(workspace: Path) -> None:
    sizes = [(160, 416), (64, 96), (64, 96)]  # the first scene's 65th and last tile begins the second shard
    rows = [scene(f"s{k}", f"r{k}", layers(k, height=h, width=w)) for k, (h, w) in enumerate(sizes)]
    run(rows)
    arrays, table = stored(), pd.read_parquet(OUT / "tiles.parquet")
    assert (len(table), TILES_A_SHARD) == (77, 64)
    for k in (0, 1, 62, 63, 64, 65, 70, 71, 76):
        line = table.iloc[k]
        sar = raster.read(Path(str(rows[int(line["scene_id"][1:])]["sar"]))).pixels_CHW
        top, left = line["row_px"], line["column_px"]
        np.testing.assert_array_equal(arrays["sar"][k], sar[:, top : top + 32, left : left + 32])
    assert len(list((OUT / "tiles.zarr" / "sar").rglob("c/*/*"))) <= 3


def test_nodata_is_marked_counted_and_refused(workspace: Path) -> None:
    # Of 32 columns 6 are 18.75 %: kept. The first tiles of `half` lack 16 columns: refused.
    made = {"few": layers(1, wedge_px=6), "half": layers(2, wedge_px=16)}
    rows = [scene(name, f"r{k}", made.get(name)) for k, name in enumerate(("few", "half", "whole", "more"))]
    report = run(rows)
    arrays, table = stored(), pd.read_parquet(OUT / "tiles.parquet")
    assert report.refused == 2
    assert len(table) == 22
    assert table[table["scene_id"] == "half"]["column_px"].tolist() == [32, 64, 32, 64]
    first = table.index[table["tile_id"] == "few_0_0"][0]
    assert table["nodata_share"][first] == pytest.approx(6 / 32)
    assert not arrays["valid"][first][:, :6].any()
    assert arrays["valid"][first][:, 6:].all()
    assert not arrays["optical"][first][..., :6].any()
    scenes = read_scenes(OUT / "scenes.csv").set_index("scene_id")
    assert scenes["tiles_refused"].to_dict() == {"few": 0, "half": 2, "more": 0, "whole": 0}
    assert scenes["tiles_kept"].to_dict() == {"few": 6, "half": 4, "more": 6, "whole": 6}


def test_a_hole_in_sar_or_reference_is_not_valid_either(workspace: Path) -> None:
    rows = []
    for k, role in enumerate(("sar", "reference", "label")):
        made = layers(k)
        made[role].valid_HW[3, 5] = False
        rows.append(scene(role, f"r{k}", made))
    run(rows)
    arrays, table = stored(), pd.read_parquet(OUT / "tiles.parquet")
    for role, invalid in {"sar": 1, "reference": 1, "label": 0}.items():
        k = table.index[table["tile_id"] == f"{role}_0_0"][0]
        assert (~arrays["valid"][k]).sum() == invalid
        assert arrays["valid"][k][3, 5] == (role == "label")
    sar, label = (table.index[table["tile_id"] == f"{role}_0_0"][0] for role in ("sar", "label"))
    assert np.isnan(arrays["sar"][sar][:, 3, 5]).all()
    assert arrays["label"][label][3, 5] == 255


def test_scenes_that_give_no_tile_are_rows_with_a_reason(rows: list[dict[str, object]]) -> None:
    rows += [
        scene("small", "r8", layers(8, height=16)),
        scene("empty", "r9", layers(9, wedge_px=96)),
        {**scene("unknown", "r9"), "label": "", "reference": ""},
        {**scene("early", "r9"), "accepted": False, "reason": "no overlap"},
    ]
    report = run(rows)
    assert (report.scenes, report.scenes_refused, report.refused) == (5, 3, 6)
    table = read_scenes(OUT / "scenes.csv").set_index("scene_id")
    assert table["accepted"].sum() == 5
    assert table["reason"].drop([f"s{k}" for k in range(5)]).to_dict() == {
        "small": "96x16 px is smaller than a tile of 32 px; lower tile.size_px",
        "empty": "all 6 tiles have too much nodata; see tile.max_nodata_share",
        "unknown": "no reference: no clear image to learn from",
        "early": "no overlap",
    }
    assert set(pd.read_parquet(OUT / "tiles.parquet")["region"]) == {"r0", "r1", "r2", "r3"}


def test_too_few_regions_are_told(rows: list[dict[str, object]]) -> None:
    with pytest.raises(DataError, match=r"2 regions \(r0, r1\) cannot fill train, val, test: .*add scenes of other"):
        run(rows[:2])
    with pytest.raises(DataError, match="none of 1 scenes is accepted: s0: no reference"):
        run([{**rows[0], "reference": ""}])


def test_a_scene_without_labels_has_unknown_classes(rows: list[dict[str, object]]) -> None:
    run([{**rows[0], "label": ""}, *rows[1:]])
    table = pd.read_parquet(OUT / "tiles.parquet")
    mine = (table["scene_id"] == "s0").to_numpy()
    assert (stored()["label"][mine] == 255).all()
    assert table.loc[mine, ["count_0", "count_1"]].to_numpy().sum() == 0


def test_dark_values_never_wrap_and_never_look_unmeasured(rows: list[dict[str, object]]) -> None:
    """What is left of dark ground after subtracting an offset may lie below 0."""
    made = layers(0)
    dark = made["optical"].pixels_CHW.astype(np.int16)
    dark[:, 0, 0], dark[:, 0, 1], dark[:, 0, 2] = -5, 0, 7
    raster.write(Path(str(rows[0]["optical"])), replace(made["optical"], pixels_CHW=dark), nodata=-9999)
    run(rows)
    table = pd.read_parquet(OUT / "tiles.parquet")
    first = stored()["optical"][table.index[table["tile_id"] == "s0_0_0"][0]]
    assert first[:, 0, :3].tolist() == [[1, 1, 7]] * 3


def test_layers_on_other_grids_are_refused(rows: list[dict[str, object]]) -> None:
    raster.write(Path(str(rows[0]["sar"])), layers(0, width=64)["sar"], nodata=float("nan"))
    with pytest.raises(GridError, match="scene s0, optical and sar: grids differ"):
        run(rows)


def test_scenes_with_other_bands_are_refused(rows: list[dict[str, object]]) -> None:
    made = layers(1)
    made["optical"] = made["optical"].select(OPTICAL[:2])
    rows[1] = scene("s1", "r1", made)
    with pytest.raises(DataError, match=r"scene s1: tiles of optical have shape \(2, 32, 32\), others \(3, 32, 32\)"):
        run(rows)


def shares(val: float, test: float) -> TileSettings:
    return TileSettings(classes=("a", "b"), val_share=val, test_share=test)


some_shares = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).filter(lambda both: sum(both) < 1)


@given(count=st.integers(3, 60), seed=st.integers(0, 2**31 - 1), both=some_shares)
def test_every_region_has_one_split_and_every_split_a_region(count: int, seed: int, both: tuple[float, float]) -> None:
    regions = [f"r{k}" for k in range(count)]
    split_of = split_regions(regions, settings=shares(*both), seed=seed)
    assert sorted(split_of) == sorted(regions)
    assert set(split_of.values()) == set(SPLITS)
    assert split_of == split_regions(regions[::-1], settings=shares(*both), seed=seed)


@given(count=st.integers(8, 60), seed=st.integers(0, 2**31 - 1))
def test_shares_are_kept_to_a_region(count: int, seed: int) -> None:
    split_of = split_regions([f"r{k}" for k in range(count)], settings=shares(0.15, 0.25), seed=seed)
    names = list(split_of.values())
    assert abs(names.count("test") - 0.25 * count) <= 0.5
    assert abs(names.count("val") - 0.15 * count) <= 0.5


@hypothesis_settings(max_examples=50)
@given(count=st.integers(3, 60), seed=st.integers(0, 2**31 - 1), both=some_shares)
def test_one_more_region_moves_few_others(count: int, seed: int, both: tuple[float, float]) -> None:
    regions = [f"r{k}" for k in range(count)]
    before = split_regions(regions, settings=shares(*both), seed=seed)
    after = split_regions([*regions, "new"], settings=shares(*both), seed=seed)
    # One over the border between test and val, two over the one between val and train where both grow.
    assert sum(before[name] != after[name] for name in regions) <= 3


def test_seeds_give_different_splits() -> None:
    regions = [f"r{k}" for k in range(20)]
    splits = {tuple(sorted(split_regions(regions, settings=shares(0.15, 0.25), seed=k).items())) for k in range(5)}
    assert len(splits) == 5


def coarse_labels(made: dict[str, Raster], *, share: float) -> dict[str, Raster]:
    """Return the scene with labels whose pixels are larger, numbered so that each can be told."""
    grid = coarser(made["optical"].grid, gsd_m=10 / share)
    codes = (np.arange(np.prod(grid.shape)) % 3).astype(np.uint8).reshape(1, *grid.shape)
    label = Raster(pixels_CHW=codes, valid_HW=np.ones(grid.shape, bool), bands=("label",), grid=grid)
    return {**made, "label": label}


def test_labels_on_a_coarser_grid_are_cut_whole_pixel_by_whole_pixel(workspace: Path) -> None:
    made = coarse_labels(layers(1, height=75, width=90), share=0.3)
    rows = [scene(f"s{k}", f"r{k}", made) for k in range(3)]
    settings = SETTINGS.model_copy(update={"size_px": 40, "stride_px": 40})
    run(rows, settings)
    found = stored()
    assert found["optical"].shape[1:] == (3, 40, 40)
    assert found["label"].shape[1:] == (12, 12)
    table = pd.read_parquet(OUT / "tiles.parquet")
    places = list(zip(table["row_px"], table["column_px"], strict=True))
    # 75 px: the last tile begins at 30, the last whole label pixel before 35
    assert places[:6] == [(0, 0), (0, 40), (0, 50), (30, 0), (30, 40), (30, 50)]
    for index, (top, left) in enumerate(places):
        row, col = int(top * 0.3), int(left * 0.3)
        assert np.array_equal(found["label"][index], made["label"].pixels_CHW[0, row : row + 12, col : col + 12])
    tiles = TileDataset(OUT, split="train")
    assert tiles.label_share == Fraction(3, 10)
    crops = Crops(tiles, crop_px=20, count=40, seed=0)
    assert {tuple(crops[k]["label_HW"].shape) for k in range(40)} == {(6, 6)}


def test_tiles_that_would_cut_label_pixels_are_refused(workspace: Path) -> None:
    rows = [scene(f"s{k}", f"r{k}", coarse_labels(layers(1), share=0.3)) for k in range(3)]
    with pytest.raises(DataError, match=r"tile\.size_px 32 must be a multiple of 10: labels are 3\.33 pixels a side"):
        run(rows)


def test_crops_of_coarse_labels_lie_where_their_pixels_lie(workspace: Path) -> None:
    made = layers(1, height=80, width=80)
    made = coarse_labels(made, share=0.5)
    painted = made["label"].pixels_CHW[0].repeat(2, 0).repeat(2, 1).astype(np.uint16) + 1  # the label, at full size
    bands = np.repeat(painted[None], 3, axis=0)
    made["reference"] = replace(made["reference"], pixels_CHW=bands)
    rows = [scene(f"s{k}", f"r{k}", made) for k in range(3)]
    run(rows, SETTINGS.model_copy(update={"size_px": 80, "stride_px": 80}))
    crops = Crops(TileDataset(OUT, split="train"), crop_px=24, count=20, seed=1)
    for number in range(20):
        crop = crops[number]
        shown = np.rint(crop["clear_CHW"][0].numpy() * 10_000).astype(int) - 1
        assert np.array_equal(shown[::2, ::2], crop["label_HW"].numpy())


def split_rows(splits: list[str], regions: list[str]) -> list[dict[str, object]]:
    pairs = zip(splits, regions, strict=True)
    return [{**scene(f"s{k}", region), "split": split} for k, (split, region) in enumerate(pairs)]


def test_a_catalogue_may_say_the_split(workspace: Path) -> None:
    settings = SETTINGS.model_copy(update={"split": "catalog"})
    run(split_rows(["test", "train", "val", "train"], ["a", "b", "c", "b"]), settings)
    table = pd.read_parquet(OUT / "tiles.parquet")
    assert dict(zip(table["scene_id"], table["split"], strict=True)) == {
        "s0": "test", "s1": "train", "s2": "val", "s3": "train"
    }  # fmt: skip


def test_a_catalogue_that_splits_a_region_is_refused_unless_asked_for(workspace: Path) -> None:
    settings = SETTINGS.model_copy(update={"split": "catalog"})
    rows = split_rows(["test", "train", "val"], ["a", "a", "c"])
    with pytest.raises(DataError, match=r"1 regions stand in several splits of the catalogue \(a\).*shared_regions"):
        run(rows, settings)
    assert run(rows, settings.model_copy(update={"shared_regions": True})).scenes == 3
    with pytest.raises(DataError, match="column split does not say train, val or test"):
        run(split_rows(["test", "", "val"], ["a", "b", "c"]), settings)
