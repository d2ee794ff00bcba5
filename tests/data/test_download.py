"""The stage that makes every URI a local file: counts, refusals as rows, and one scene's work for one more scene."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine

from cgm2net import raster
from cgm2net.catalog import COLUMNS, read_scenes, write_catalog
from cgm2net.data import download as module
from cgm2net.data.download import DownloadReport, download
from cgm2net.data.fetch import fetch
from cgm2net.errors import CatalogError, FetchError
from cgm2net.settings import DownloadSettings

SETTINGS = DownloadSettings(num_workers=1, max_attempts=2, retry_wait_seconds=0)
OUT = Path("artifacts/download")
CATALOG = Path("data/catalog.csv")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row(scene_id: str, **values: str) -> dict[str, str]:
    """Return a catalogue row; writes its files beside the catalogue."""
    folder = Path("data") / scene_id
    folder.mkdir(parents=True, exist_ok=True)
    for role in ("optical", "sar"):
        (folder / f"{role}.tif").write_text(f"{role} of {scene_id}")
    files = {role: f"{scene_id}/{role}.tif" for role in ("optical", "sar")}
    return {**dict.fromkeys(COLUMNS, ""), "scene_id": scene_id, "region": "r0", **files, **values}


def run(*rows: dict[str, str], num_workers: int = 1) -> DownloadReport:
    write_catalog(pd.DataFrame(list(rows)).fillna(""), CATALOG)
    return download(CATALOG, OUT, settings=SETTINGS.model_copy(update={"num_workers": num_workers}))


@pytest.fixture
def fetched(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the URIs that were really fetched."""
    uris: list[str] = []

    def counted(uri: str, *arguments: object, **options: object) -> str:
        uris.append(Path(uri).parent.name + "/" + Path(uri).name)
        return fetch(uri, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fetch", counted)
    return uris


def test_every_file_is_local_and_hashed(workspace: Path) -> None:
    uri = "synthetic:cloud?region=1&date=2024-05-01&size_px=64"
    assert run(row("b"), row("a", cloud=uri)) == DownloadReport(found=2, fetched=2, refused=0, from_cache=0)
    table = read_scenes(OUT / "scenes.csv")
    assert table["scene_id"].tolist() == ["a", "b"]
    assert table["accepted"].tolist() == [True, True]
    for scene in table.to_dict("records"):
        for role in ("optical", "sar", *(["cloud"] if scene["scene_id"] == "a" else [])):
            path = Path(scene[role])
            assert path == OUT.resolve() / scene["scene_id"] / f"{role}.tif"
            assert scene[f"{role}_sha256"] == sha256(path)
    assert Path(table["optical"][1]).read_text() == "optical of b"
    assert table["cloud"][1] == table["cloud_sha256"][1] == table["reference"][0] == ""


def test_one_more_scene_costs_one_scene(fetched: list[str]) -> None:
    rows = [row("a"), row("b")]
    run(*rows)
    fetched.clear()
    assert run(*rows, row("aa")) == DownloadReport(found=3, fetched=3, refused=0, from_cache=2)
    assert fetched == ["aa/optical.tif", "aa/sar.tif"]


def test_a_file_that_changed_at_its_place_is_fetched_again(fetched: list[str]) -> None:
    rows = [row("a"), row("b")]
    run(*rows)
    fetched.clear()
    Path("data/b/sar.tif").write_text("another image")
    assert run(*rows).from_cache == 1
    assert set(fetched) == {"b/optical.tif", "b/sar.tif"}
    assert (OUT / "b" / "sar.tif").read_text() == "another image"


def test_a_missing_file_is_a_row_with_a_reason(workspace: Path) -> None:
    rows = [row("a"), row("b", reference="b/no.tif"), row("c", optical="synthetic:optical?region=1&date=2024-05-01")]
    assert run(*rows) == DownloadReport(found=3, fetched=2, refused=1, from_cache=0)
    table = read_scenes(OUT / "scenes.csv").set_index("scene_id")
    assert not table.loc["b", "accepted"]
    assert table.loc["b", "reason"] == f"reference is not at {Path('data/b/no.tif').resolve()}"
    assert table.loc["b", "optical"] == ""
    assert not (OUT / "b").exists()
    assert table.loc["a", "reason"] == ""


@pytest.mark.parametrize("fault", ["absent", "another"])
def test_a_scene_refused_once_is_accepted_when_its_file_is_right(workspace: Path, fault: str) -> None:
    """With a checksum in the catalogue nothing but the file changes."""
    rows = [row("a"), row("b", sar_sha256=hashlib.sha256(b"sar of b").hexdigest())]
    path = Path("data/b/sar.tif")
    path.unlink() if fault == "absent" else path.write_text("of another place")
    assert run(*rows).refused == 1
    reason = read_scenes(OUT / "scenes.csv")["reason"][1]
    assert ("sar is not at" if fault == "absent" else "SHA-256 is") in reason
    path.write_text("sar of b")
    assert run(*rows) == DownloadReport(found=2, fetched=2, refused=0, from_cache=1)


def test_with_checksums_the_store_is_not_asked(workspace: Path) -> None:
    known = {f"{role}_sha256": hashlib.sha256(f"{role} of a".encode()).hexdigest() for role in ("optical", "sar")}
    scene = row("a", **known)
    run(scene)
    for role in ("optical", "sar"):
        Path(f"data/a/{role}.tif").unlink()
    assert run(scene) == DownloadReport(found=1, fetched=1, refused=0, from_cache=1)
    assert (OUT / "a" / "sar.tif").read_text() == "sar of a"


def test_processes_give_the_same_table(workspace: Path) -> None:
    rows = [row("a"), row("b", sar_sha256="0" * 64), row("c")]
    run(*rows, num_workers=1)
    one = (OUT / "scenes.csv").read_bytes()
    assert run(*rows, num_workers=2).from_cache == 2
    assert (OUT / "scenes.csv").read_bytes() == one


def test_a_network_that_stays_away_stops_the_stage(workspace: Path) -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:9/a\.tif: not fetched in 2 tries"):
        run(row("a", sar="http://127.0.0.1:9/a.tif"))
    assert not (OUT / "scenes.csv").exists()


def test_nothing_to_download_is_told(workspace: Path) -> None:
    with pytest.raises(CatalogError, match="no catalogue there"):
        download(CATALOG, OUT, settings=SETTINGS)
    CATALOG.parent.mkdir()
    CATALOG.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(CatalogError, match="no scene in it"):
        download(CATALOG, OUT, settings=SETTINGS)


def image(path: Path, pixels: np.ndarray, **profile: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype.name,
        transform=Affine(10, 0, 500_000, 0, -10, 5_300_000), **profile,
    ) as file:  # fmt: skip
        file.write(pixels)


def told_row(scene_id: str, **values: str) -> dict[str, str]:
    """Return a scene whose files need words: an offset, linear power, a mask without a grid."""
    scene = row(scene_id)
    folder = Path("data") / scene_id
    image(folder / "s2.tif", np.full((2, 4, 6), 3000, np.uint16), crs="EPSG:32633")
    image(folder / "s1.tif", np.full((2, 4, 6), 0.1), crs="EPSG:32633")
    np.save(folder / "m.npy", np.ones((4, 6), bool))
    files = {
        "optical": f"{scene_id}/s2.tif#bands=B02,B03&offset=-1000", "sar": f"{scene_id}/s1.tif#bands=VV,VH&linear=1",
        "cloud": f"{scene_id}/m.npy#grid=optical",
    }  # fmt: skip
    return {**scene, **files, **values}


def test_files_become_what_their_uris_say(workspace: Path) -> None:
    pinned = told_row("a")
    pinned["optical_sha256"] = sha256(Path("data/a/s2.tif"))  # of the file that is fetched
    other = row("b")
    assert run(pinned, other) == DownloadReport(found=2, fetched=2, refused=0, from_cache=0)
    scene = read_scenes(OUT / "scenes.csv").iloc[0]
    assert sorted(path.name for path in (OUT / "a").iterdir()) == ["cloud.tif", "optical.tif", "sar.tif"]
    for role in ("optical", "sar", "cloud"):
        assert scene[f"{role}_sha256"] == sha256(OUT / "a" / f"{role}.tif")
    optical = raster.read(OUT / "a/optical.tif")
    assert (optical.bands, np.unique(optical.pixels_CHW).tolist()) == (("B02", "B03"), [2000])
    assert np.unique(raster.read(OUT / "a/sar.tif").pixels_CHW).tolist() == [-10]
    assert raster.read(OUT / "a/cloud.tif").grid == optical.grid
    assert run(pinned, other).from_cache == 2


def test_other_words_make_another_file(workspace: Path) -> None:
    run(told_row("a"))
    assert run(told_row("a", optical="a/s2.tif#bands=B02,B03")).from_cache == 0
    assert raster.read(OUT / "a/optical.tif").pixels_CHW.max() == 3000


def test_words_that_do_not_fit_the_file_refuse_the_scene(workspace: Path) -> None:
    scenes = [
        row("a"), told_row("b", optical="b/s2.tif#bands=B02"), told_row("c", cloud="c/none.npy#grid=optical"),
        told_row("d", optical="d/optical.tif#bands=B02,B03"), told_row("e", cloud="e/m.npy"),
    ]  # fmt: skip
    assert run(*scenes).refused == 4
    reasons = read_scenes(OUT / "scenes.csv").set_index("scene_id")["reason"]
    here = Path("data").resolve()
    assert reasons["b"].startswith(f"optical {here}/b/s2.tif: has 2 bands, 1 names were given: B02")
    assert reasons["c"] == f"cloud is not at {here}/c/none.npy"
    assert reasons["e"].startswith(f"cloud {here}/e/m.npy: does not say where on Earth it lies; add grid=optical")
    assert reasons["d"].startswith(f"optical {here}/d/optical.tif: cannot be read as a raster")


def test_words_that_nobody_knows_stop_the_stage(workspace: Path) -> None:
    with pytest.raises(CatalogError, match=r"unknown instruction 'band' after '#'"):
        run(told_row("a", optical="a/s2.tif#band=B02"))
    with pytest.raises(CatalogError, match="codes is no instruction for optical"):
        run(told_row("a", optical="a/s2.tif#codes=1:0"))
