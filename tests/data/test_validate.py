"""The suite on a table of hand-made facts, the stage on the sample's broken scenes, and on real scenes where given."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from cgm2net.catalog import FILE_ROLES, read_catalog, read_scenes, write_scenes
from cgm2net.compute import Facts
from cgm2net.data import synthetic
from cgm2net.data.expectations import RULES, explain
from cgm2net.data.validate import ValidateReport, _judge, validate
from cgm2net.errors import DataError
from cgm2net.files import read_json
from cgm2net.settings import ValidateSettings

SETTINGS = ValidateSettings(num_workers=1, min_accepted=3, label_codes_max=5)

GOOD: Facts = {
    "unreadable": "", "source_lacks": "", "without_crs": "",
    "identical_files": "", "offset_suspected": "", "wrong_dates": "",
    "optical_bands": "B01 B02 B03 B04 B08 B8A B11 B12", "reference_bands": "B02 B03 B04 B08 B11 B12",
    "sar_bands": "VV VH", "overlap_share": 0.9, "overlap_role": "sar", "gsd_ratio": 4.0, "optical_top_dn": 50.0,
    "swapped_share": 0.01, "swapped_role": "optical", "sar_median": -0.01, "nodata_share": 0.5, "nodata_role": "sar",
    "label_max_code": 5, "label_codes": "0 5", "gap_days": 30.0, "crs": "optical EPSG:32631, sar EPSG:32635",
}  # fmt: skip
"""Just good enough in everything."""

# column: (what is wrong, what a person must read of it)
BAD: dict[str, tuple[object, str]] = {
    "unreadable": ("sar: TIFFReadEncodedTile() failed.", "unreadable sar: TIFFReadEncodedTile() failed.; fetch"),
    "source_lacks": ("label, cloud", "lacks label, cloud, which every scene of its source has; bring it in again"),
    "without_crs": ("label", "no coordinate reference system in label"),
    "optical_bands": ("B8A B02 B03 B04 B11 B12", "optical has bands B8A B02 B03 B04 B11 B12, wanted B02 B03 B04 B08"),
    "reference_bands": ("band1", "reference has bands band1, wanted B02"),
    "sar_bands": ("VV", "SAR has bands VV, wanted VV VH"),
    "identical_files": ("optical = reference", "identical pixels: optical = reference"),
    "overlap_share": (0.89, "sar covers 89% of the optical footprint, wanted at least 90%; check the coordinate refe"),
    "gsd_ratio": (4.26, "pixel sizes differ 4.3 times, wanted at most 4"),
    "optical_top_dn": (0.83, "values reach 0.83, wanted reflectance x 10000"),
    "offset_suspected": (
        "optical: dark end of B10 is 1009 DN",
        "offset of +1000 DN suspected, optical: dark end of B10",
    ),
    "swapped_share": (0.3, "bands of optical out of order: in 30% of its pixels"),
    "sar_median": (0.07, "SAR is not in dB: median 0.07, wanted -35 to 0"),
    "nodata_share": (0.51, "sar has 51% of pixels without measurement, wanted at most 50%"),
    "label_max_code": (6, "label holds 0 5, wanted uint8 codes 0 to 5"),
    "wrong_dates": ("acquired_sar 'summer'", "not a date: acquired_sar 'summer', wanted ISO 8601"),
    "gap_days": (30.5, "30.5 days between the optical and the SAR acquisition, wanted at most 30"),
}


def table() -> list[Facts]:
    """Return the good scene, one that nothing is known of, one bad in each column, more bad SAR, one bad in two."""
    rows: list[Facts] = [{"scene_id": "good", **GOOD}, {"scene_id": "unknown", **dict.fromkeys(GOOD)}]
    rows += [{"scene_id": column, **GOOD, column: value} for column, (value, _) in BAD.items()]
    rows += [{"scene_id": f"sar {level}", **GOOD, "sar_median": level} for level in (-36.0, 0.0, 120.0)]
    return [*rows, {"scene_id": "two", **GOOD, "gap_days": 99.0, "unreadable": "sar: gone"}]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], Path]:
    folder = tmp_path_factory.mktemp("judged") / "docs"
    return _judge(table(), SETTINGS, docs_dir=folder), folder


def test_every_rule_is_tested_here() -> None:
    assert [rule.column for rule in RULES] == list(dict.fromkeys(rule.column for rule in RULES))
    assert {rule.column for rule in RULES} == set(BAD)


def test_each_rule_refuses_its_own_case_and_no_other(judged: tuple[dict[str, list[str]], Path]) -> None:
    failed, _ = judged
    linear = {f"sar {level}": ["sar_median"] for level in (-36.0, 0.0, 120.0)}
    both = {"two": ["gap_days", "unreadable"]}
    assert {scene: sorted(columns) for scene, columns in failed.items()} == {c: [c] for c in BAD} | linear | both


@pytest.mark.parametrize("column", BAD)
def test_reason_tells_got_and_wanted(column: str) -> None:
    value, words = BAD[column]
    rule = next(rule for rule in RULES if rule.column == column)
    assert words in explain(rule, {**GOOD, column: value}, SETTINGS)


def test_data_docs_say_what_to_do_and_send_nothing(judged: tuple[dict[str, list[str]], Path]) -> None:
    _, docs = judged
    text = "".join(page.read_text() for page in docs.rglob("*.html"))
    assert "subtract 1000 from every valid pixel" in text
    assert "dataContextId" not in text
    assert str(docs.parent) not in text


def test_data_docs_hold_no_picture_that_no_page_shows(judged: tuple[dict[str, list[str]], Path]) -> None:
    _, docs = judged
    assert sorted(path.name for path in docs.glob("static/images/*")) == ["favicon.ico", "logo-long.png"]
    assert sum(path.stat().st_size for path in docs.rglob("*") if path.is_file()) < 1_000_000


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, ValidateReport]]:
    """Validate the sample's scenes, one with a lost file and one that an earlier stage refused."""
    root = tmp_path_factory.mktemp("sample")
    rows = synthetic.sample_catalog(num_regions=1, scenes_per_region=1, size_px=128, seed=3)
    for row in rows:
        (root / row["scene_id"]).mkdir()
        for role in FILE_ROLES:
            if row[role]:
                path = root / row["scene_id"] / f"{role}.tif"
                synthetic.write(row[role], path)
                row[role] = str(path)
    scenes = pd.DataFrame(rows).assign(accepted=True, reason="")
    lost = scenes.iloc[[0]].assign(scene_id="lost", sar=str(root / "lost.tif"))
    early = scenes.iloc[[0]].assign(scene_id="early", accepted=False, reason="404 at its address", sar="")
    write_scenes(pd.concat([scenes, lost, early]), root / "scenes.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # where the per-scene cache goes
        report = validate(root / "scenes.csv", root / "out", settings=SETTINGS.model_copy(update={"min_accepted": 1}))
        yield root / "scenes.csv", root / "out", report


REASONS = {
    "broken-wrong-crs": "sar covers 0% of the optical footprint",
    "broken-offset-1000": "offset of +1000 DN suspected, reference",
    "broken-bands-swapped": "bands of optical out of order",
    "broken-truncated": "unreadable optical: ",
    "broken-sar-linear": "SAR is not in dB: median 0.0",
    "broken-reference-identical": "identical pixels: optical = reference",
    "lost": "unreadable sar: there is no such file",
    "early": "404 at its address",
}


def test_each_broken_scene_is_refused_for_what_is_wrong(sample: tuple[Path, Path, ValidateReport]) -> None:
    scenes, out, report = sample
    table = read_scenes(out / "scenes.csv").set_index("scene_id")
    refused = table[~table["accepted"]]
    assert set(refused.index) == set(REASONS)
    assert set(table.loc[table["accepted"], "reason"]) == {""}
    for scene_id, words in REASONS.items():
        assert str(refused.loc[scene_id, "reason"]).startswith(words)
        assert len(read_json(out / "verdicts.json")[scene_id]["reasons"]) == 1  # type: ignore[index]
    assert report == ValidateReport(num_scenes=10, num_accepted=2, num_refused=7, num_cached=0)
    assert sorted(path.name for path in out.iterdir()) == ["data_docs", "scenes.csv", "verdicts.json"]
    assert set(read_scenes(scenes).columns) < set(table.reset_index().columns)


def test_first_page_tells_every_scene_and_reason(sample: tuple[Path, Path, ValidateReport]) -> None:
    _, out, _ = sample
    page = (out / "data_docs/index.html").read_text()
    assert "2 of 10 scenes are accepted" in page
    for scene_id, words in REASONS.items():
        assert scene_id in page
        assert words in page
    link = page.split('<a href="')[1].split('"')[0]
    assert (out / "data_docs" / link).is_file()


def test_too_few_scenes_stop_the_pipeline_and_a_second_run_gives_the_same(
    sample: tuple[Path, Path, ValidateReport],
) -> None:
    scenes, out, _ = sample
    again = out.parent / "again"
    with pytest.raises(DataError, match=r"2 of 10 scenes are accepted, validate.min_accepted wants 3") as error:
        validate(scenes, again, settings=SETTINGS)
    assert "unreadable 2, refused by an earlier stage 1" in str(error.value)
    assert "again/scenes.csv" in str(error.value)
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert (again / path.relative_to(out)).read_bytes() == path.read_bytes()
    shutil.rmtree(again)


def test_no_scene_that_could_be_judged(tmp_path: Path, sample: tuple[Path, Path, ValidateReport]) -> None:
    table = read_scenes(sample[0])
    write_scenes(table[~table["accepted"]], tmp_path / "scenes.csv")
    with pytest.raises(DataError, match=r"0 of 1 scenes are accepted.*refused by an earlier stage 1"):
        validate(tmp_path / "scenes.csv", tmp_path / "out", settings=SETTINGS)
    assert read_scenes(tmp_path / "out/scenes.csv")["reason"].tolist() == ["404 at its address"]


@pytest.mark.skipif("CGM2NET_REAL_DATA" not in os.environ, reason="CGM2NET_REAL_DATA names no folder of real scenes")
def test_real_scenes_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_catalog(Path(os.environ["CGM2NET_REAL_DATA"]) / "catalog.csv").assign(accepted=True, reason="")
    write_scenes(table, tmp_path / "scenes.csv")
    monkeypatch.chdir(tmp_path)
    report = validate(tmp_path / "scenes.csv", tmp_path / "out", settings=SETTINGS)
    assert read_scenes(tmp_path / "out/scenes.csv").query("not accepted")["reason"].tolist() == []
    assert report.num_accepted == len(table)
