"""The rules without Great Expectations: the same verdicts, where only a few facts are known."""

from pathlib import Path

import pytest

from cgm2net.compute import Facts
from cgm2net.data.expectations import RULES, SOURCES, build_suite, failures, source_lacks
from cgm2net.data.validate import _judge
from cgm2net.sensors import SENTINEL2
from cgm2net.settings import ValidateSettings

SETTINGS = ValidateSettings()
GOOD: Facts = {
    "unreadable": "", "source_lacks": "", "without_crs": "",
    "optical_bands": "B02 B03 B04 B08 B11 B12 B01", "reference_bands": None,
    "sar_bands": "VH VV", "identical_files": "", "overlap_share": 0.9, "gsd_ratio": 4.0, "optical_top_dn": 50,
    "offset_suspected": "", "swapped_share": 0.01, "sar_median": -35.0, "nodata_share": 0.5, "label_max_code": 0,
    "wrong_dates": "", "gap_days": 30.0,
}  # fmt: skip
BAD: Facts = {
    "unreadable": "sar: gone", "source_lacks": "label", "without_crs": "sar",
    "optical_bands": "B02 B03 B04 B08 B11", "reference_bands": "B1",
    "sar_bands": "VV VHH", "identical_files": "a = b", "overlap_share": 0.89, "gsd_ratio": 4.1, "optical_top_dn": 49.9,
    "offset_suspected": "optical: x", "swapped_share": 0.011, "sar_median": 0.0, "nodata_share": 0.51,
    "label_max_code": -1, "wrong_dates": "acquired_sar 'x'", "gap_days": 30.1,
}  # fmt: skip
WORDS: Facts = {  # what reasons tell beside the fact that is judged
    "overlap_role": "sar", "crs": "", "swapped_role": "optical", "nodata_role": "sar", "label_codes": "x",
}  # fmt: skip


def test_every_rule_has_a_limit_that_passes_and_a_value_beyond() -> None:
    assert set(GOOD) == set(BAD) == {rule.column for rule in RULES}
    assert failures({**GOOD, **WORDS}, SETTINGS) == {}
    assert list(failures({**BAD, **WORDS}, SETTINGS)) == [rule.column for rule in RULES]


def test_great_expectations_says_the_same(tmp_path: Path) -> None:
    scenes = [{**GOOD, **WORDS, "scene_id": "good"}]
    scenes += [{**GOOD, **WORDS, column: BAD[column], "scene_id": column} for column in BAD]
    told = _judge(scenes, SETTINGS, docs_dir=tmp_path / "docs")
    assert told == {str(s["scene_id"]): list(failures(s, SETTINGS)) for s in scenes if failures(s, SETTINGS)}


@pytest.mark.parametrize(("column", "value"), [("sar_median", 0.07), ("sar_median", -35.1), ("optical_top_dn", 1)])
def test_facts_that_are_not_known_pass(column: str, value: float) -> None:
    assert list(failures({column: value}, SETTINGS)) == [column]
    assert failures({column: None}, SETTINGS) == {}
    assert failures({}, SETTINGS) == {}


L1C = " ".join(band.name for band in SENTINEL2)


@pytest.mark.parametrize(
    ("source", "empty", "bands", "lacks"),
    [
        ("m3m_cr", (), "blue green red nir", ""),
        ("m3m_cr", ("label", "cloud"), "blue green red nir", "label, cloud"),
        ("luojiaset_osfcr", ("cloud",), L1C, ""),
        ("luojiaset_osfcr", (), L1C.replace("B10 ", ""), "band B10"),
        ("luojiaset_osfcr", ("reference",), None, "reference"),
        ("sen12ms_cr", ("label", "cloud", "acquired_sar"), L1C, ""),
        ("stac", ("reference", "acquired_sar"), "B02", "acquired_sar"),
        ("stac:earth-search v1", ("acquired_optical",), "B02", "acquired_optical"),
        ("synthetic", ("reference", "label", "cloud", "acquired_sar"), "B02", ""),
        ("", ("reference",), "B02", ""),
    ],
)
def test_what_a_source_always_has(source: str, empty: tuple[str, ...], bands: str | None, lacks: str) -> None:
    columns = ("reference", "label", "cloud", "acquired_optical", "acquired_sar")
    row = {**{column: "" if column in empty else "there" for column in columns}, "source": source}
    assert source_lacks(row, bands) == lacks


def test_the_data_docs_name_every_source() -> None:
    (rule,) = (rule for rule in build_suite(SETTINGS).expectations if rule.column == "source_lacks")
    assert all(source in rule.description for source in SOURCES)
    assert "luojiaset_osfcr: reference, label, 13 bands" in rule.description
