"""The rules without Great Expectations: the same verdicts, where only a few facts are known."""

from pathlib import Path

import pytest

from cgm2net.compute import Facts
from cgm2net.data.expectations import RULES, failures
from cgm2net.data.validate import _judge
from cgm2net.settings import ValidateSettings

SETTINGS = ValidateSettings()
GOOD: Facts = {
    "unreadable": "", "without_crs": "", "optical_bands": "B02 B03 B04 B08 B11 B12 B01", "reference_bands": None,
    "sar_bands": "VH VV", "identical_files": "", "overlap_share": 0.9, "gsd_ratio": 4.0, "optical_top_dn": 50,
    "offset_suspected": "", "swapped_share": 0.01, "sar_median": -35.0, "nodata_share": 0.5, "label_max_code": 0,
    "wrong_dates": "", "gap_days": 30.0,
}  # fmt: skip
BAD: Facts = {
    "unreadable": "sar: gone", "without_crs": "sar", "optical_bands": "B02 B03 B04 B08 B11", "reference_bands": "B1",
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
