"""The page on drift: says on top what moved and what to do, and needs nothing beside itself."""

import re
from pathlib import Path

from batches import CODES, batch

from cgm2net.data.drift import measure_drift, read_both
from cgm2net.data.drift_page import write_page


def page(incoming: Path, reference: Path, path: Path) -> str:
    report = measure_drift(incoming, reference)
    write_page(report, *read_both(incoming, reference, confidence=None), path=path)
    return path.read_text()


def test_it_says_what_moved_and_what_to_do(tmp_path: Path) -> None:
    reference = batch(tmp_path / "b", codes=CODES)
    text = page(batch(tmp_path / "a", gain=1.5, codes={"0": 1, "1": 9}), reference, tmp_path / "drift.html")
    top = text[: text.index("<table>")]
    assert "<b>class mix, optical B02 drifted.</b>" in top or "<b>optical B02, class mix drifted.</b>" in top
    assert "processing baseline (+1000 DN)" in top
    assert "The mix of classes moved." in top
    assert "SAR moved" not in top
    assert text.count('<tr class="yes">') == 2
    assert text.count("<svg") == 1
    assert re.findall(r'(?:src|href)="(?!#)[^"]+"', text) == []
    assert page(tmp_path / "a", reference, tmp_path / "again.html") == text


def test_it_says_that_nothing_moved(tmp_path: Path) -> None:
    folder = batch(tmp_path / "a", refused=2)
    text = page(folder, folder, tmp_path / "drift.html")
    assert "<b>Nothing drifted.</b> 20 incoming scenes against 20 of the reference, 5 of 5 features judged." in text
    assert "2 more were refused" in text
    assert "What to do" not in text


def test_it_does_not_guess_from_few_scenes(tmp_path: Path) -> None:
    text = page(batch(tmp_path / "a", num=2), batch(tmp_path / "b"), tmp_path / "drift.html")
    assert "<b>Nothing could be judged.</b>" in text
    assert "Gather at least 6 scenes on either side." in text
    assert "<svg" not in text


def test_it_leads_to_the_verdict_on_every_incoming_scene(tmp_path: Path) -> None:
    folder = batch(tmp_path / "a <1>", refused=1)
    docs = folder / "validate/data_docs/index.html"
    docs.parent.mkdir()
    docs.write_text("")
    report = measure_drift(folder, folder)
    path = tmp_path / "out" / "drift.html"
    write_page(report, *read_both(folder, folder, confidence=None), path=path, data_docs=docs)
    (place,) = re.findall(r'href="(?!#)([^"]+)"', path.read_text())
    assert place == "../a%20%3C1%3E/validate/data_docs/index.html"
