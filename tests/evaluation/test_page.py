"""The report of an evaluation: what it says, what it leaves out, what it must never hold."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_evaluation import FACTS, METRICS, page_parts, picture, write_calibrated, write_evaluation

from cgm2net.errors import DataError
from cgm2net.evaluation.page import link, write_page
from cgm2net.evaluation.page_parts import PageParts, read_parts, write_parts

VERDICT: dict[str, Any] = {
    "promoted": False, "reason": "cloudy/psnr 22.5 against 23", "model_name": "cgm2net", "challenger": 4,
    "champion_before": 3, "run_id": "r", "data_hash": "d", "champion_data_hash": "other",
    "comparisons": [
        {"metric": "cloudy/psnr", "champion": 23.0, "challenger": 22.5, "gain": -0.5, "limit": 0.0, "passed": False},
        {"metric": "clear/iou_water", "champion": 0.5, "challenger": 0.6, "gain": 0.1, "limit": -0.02, "passed": True},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> PageParts:
    return page_parts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calibrated(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def page(folder: Path, parts: PageParts) -> Path:
    write_page(folder, folder / "report.html", parts=parts)
    return folder / "report.html"


def text_of(page: Path) -> str:
    """What a reader sees of the markup, spaces run together."""
    body = re.sub(r"(?s)<(style|script)>.*?</\1>", "", page.read_text().split("</head>")[1])
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&nbsp;", " ").replace("\xa0", " ").split())


# What it says


def test_headline_stands_beside_the_trivial_answers(page: Path) -> None:
    text = text_of(page)
    assert "Under cloud the restored image reaches 22.5 dB, 13.2 dB more than the cloudy image as it came." in text
    assert "PSNR under cloud 22.50 dB trivial 9.25 +13.25, better" in text
    assert "SAM under cloud 8.00 ° trivial 26.00 −18.00, better" in text  # degrees: less is better
    assert "PSNR , dB this model 25.00 28.00 22.50 copying 12.00 28.50 9.25" in text
    assert "mIoU this model 0.700 0.750 0.625 majority 0.100 0.100 0.125" in text
    assert "champion 2" not in text


def test_what_is_worse_than_the_trivial_answer_is_said(page: Path) -> None:
    assert "Worse than the trivial answer: PSNR of clear pixels by 0.50 dB." in text_of(page)


def test_without_a_verdict_the_page_says_where_it_will_be(page: Path) -> None:
    text = text_of(page)
    assert "Not on this page yet. The stage register comes next" in text
    assert "Promoted" not in text


def test_verdict_and_champion(folder: Path, parts: PageParts, tmp_path: Path) -> None:
    champion = {"cloudy/psnr": 23.0, "all/psnr": 25.5}
    write_page(folder, tmp_path / "report.html", parts=parts, verdict=VERDICT, champion=champion)
    text = text_of(tmp_path / "report.html")
    assert "Not promoted : cloudy/psnr 22.5 against 23." in text
    assert "version 4 against the champion, version 3. The champion was first judged on other tiles" in text
    assert "PSNR, cloudy , dB 23.00 22.50 −0.50 0.00 failed" in text
    assert "IoU of water, clear 0.500 0.600 +0.100 −0.020 passed" in text
    assert "+13.25, better champion 23.00" in text
    assert "copying 12.00 28.50 9.25 champion 25.50 – 23.00" in text
    assert "Not on this page yet" not in text


def test_a_first_version_has_no_champion(folder: Path, parts: PageParts, tmp_path: Path) -> None:
    rows = [{**VERDICT["comparisons"][0], "champion": None, "gain": None, "passed": True}]
    first = {**VERDICT, "promoted": True, "champion_before": None, "champion_data_hash": None, "comparisons": rows}
    write_page(folder, tmp_path / "report.html", parts=parts, verdict=first)
    text = text_of(tmp_path / "report.html")
    assert "version 4; there was no champion." in text
    assert "PSNR, cloudy , dB – 22.50 – 0.00 passed" in text


def test_classes_confusion_and_calibration(page: Path) -> None:
    text = text_of(page)
    assert "water 0.875 0.875 0.875 0.875 0.875 300 75.0 %" in text
    assert "– – – – – 100 25.0 %" in text  # a class without scores
    assert "All pixels true \\ mapped water rice" in text
    assert "water 75 25 rice &lt;i&gt;&amp; lotus&lt;/i&gt; – –" in text
    assert "all 2.33 89.3 % 0.0521" in text
    assert "cloudy 3.48 – –" in text


def test_regions_are_pooled_over_their_tiles(page: Path) -> None:
    # north: 4.5 squared over 450 values, 20 dB; its mean of tiles' PSNRs is another figure
    assert "north 2 2 38 % 20.00 10.00 1.000" in text_of(page)
    assert "south 1 1 0 % – – –" in text_of(page)


def test_tiles_are_shown_with_their_own_figures(page: Path) -> None:
    text = text_of(page)
    assert "Worst n1_0_0" in text
    assert "Region north, 50 % cloudy. Cloudy pixels: 18.0 dB (copied 8.0), 50 % mapped right." in text
    assert "Region south, 0 % cloudy. All pixels: 30.0 dB (copied 29.0), 90 % mapped right." in text
    assert "Median" not in text


def test_what_is_absent_is_left_out(tmp_path: Path) -> None:
    bare = {name: value for name, value in METRICS.items() if "psnr" in name and "cloudy" not in name}
    folder = write_evaluation(tmp_path, metrics=bare)
    confusion = pd.read_csv(folder / "confusion.csv").assign(all=0, clear=0, cloudy=0)
    confusion.to_csv(folder / "confusion.csv", index=False)
    write_page(folder, folder / "report.html", parts=PageParts(facts=FACTS))
    text = text_of(folder / "report.html")
    assert "Over all pixels the restored image reaches 25.0 dB, 13.0 dB more" in text
    for section in ("Calibration", "Confusion", "By class", "Worst", "mIoU of"):
        assert section not in text
    html = (folder / "report.html").read_text()
    assert "Map of the regions" not in html
    assert "<dt>Run</dt><dd><code>unknown</code>" in html
    assert "<dt>Commit</dt><dd><code>unknown</code>" in html


def test_provenance(folder: Path, parts: PageParts, tmp_path: Path) -> None:
    known = {
        "run_id": "abc", "run_url": "https://mlflow.example/#/experiments/1/runs/abc?a=1&b=2", "git_commit": "c0ffee",
        "git_dirty": "true", "trained_data_hash": "t" * 64,
    }  # fmt: skip
    facts = FACTS.model_copy(update=known)
    write_page(folder, tmp_path / "report.html", parts=parts.model_copy(update={"facts": facts}))
    html = (tmp_path / "report.html").read_text()
    assert 'href="https://mlflow.example/#/experiments/1/runs/abc?a=1&amp;b=2"' in html
    assert "<code>c0ffee</code>, changed since" in html
    assert f"<code>{'t' * 64}</code>, other tiles than those it was tested on" in html
    assert "1,234,567 parameters" in html


# What it must not do


def test_all_text_is_escaped(page: Path) -> None:
    html = page.read_text()
    assert "<title>A &lt;b&gt;bold&lt;/b&gt; run</title>" in html
    assert "rice &lt;i&gt;&amp; lotus&lt;/i&gt;" in html
    assert "east &lt;1&gt;" in html
    for raw in ("<b>", "<i>", "& lotus", "<1>"):
        assert raw not in html


def test_no_link_runs_code() -> None:
    assert link("javascript:alert(1)") is None
    assert link("file:///etc/passwd") is None
    assert link(None) is None
    assert link("http://127.0.0.1:5000/#/experiments/1") == "http://127.0.0.1:5000/#/experiments/1"


def test_page_refers_to_nothing_outside(page: Path) -> None:
    html = page.read_text()
    assert re.findall(r"""(?:src|href|action|data)=["'](?!data:image/png;base64,|#)""", html) == []
    assert re.findall(r"url\(|@import|https?:", html) == []


def test_equal_inputs_give_equal_bytes(page: Path, folder: Path, parts: PageParts, tmp_path: Path) -> None:
    write_parts(tmp_path, parts)
    write_page(folder, tmp_path / "report.html", parts=read_parts(tmp_path))
    assert (tmp_path / "report.html").read_bytes() == page.read_bytes()
    assert picture("n1_0_0", "worst") == parts.pictures[0]


def test_what_does_not_fit_is_refused(folder: Path, parts: PageParts, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks metrics.json, by_cover.csv.*run the stage `evaluate`"):
        write_page(tmp_path, tmp_path / "report.html", parts=parts)
    strange = parts.model_copy(update={"pictures": (picture("elsewhere", "best"),)})
    with pytest.raises(DataError, match=r"tiles.parquet lacks elsewhere"):
        write_page(folder, tmp_path / "report.html", parts=strange)
    other = parts.model_copy(update={"facts": FACTS.model_copy(update={"classes": ("sand",)})})
    with pytest.raises(DataError, match="the facts have sand"):
        write_page(folder, tmp_path / "report.html", parts=other)
    with pytest.raises(DataError, match=r"page.json: not there"):
        read_parts(tmp_path)
    (tmp_path / "page.json").write_text('{"facts": {}}')
    with pytest.raises(DataError, match="not of this version"):
        read_parts(tmp_path)
    assert not (tmp_path / "report.html").exists()
