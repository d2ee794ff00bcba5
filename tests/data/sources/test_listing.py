"""Counts that add up, and what is written of them."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgm2net.catalog import check_id
from cgm2net.data.sources.listing import Listing, Refusal, safe_id, write_listing
from cgm2net.errors import CatalogError, DataError


def row(scene_id: str, region: str = "r", **values: str) -> dict[str, str]:
    return {"scene_id": scene_id, "region": region, "optical": "/o.tif", "sar": "/s.tif", **values}


def test_a_scene_with_two_faults_counts_once() -> None:
    refused = (
        Refusal(scene_id="c", file="c/1.tif", reason="first"), Refusal(scene_id="c", file="c/2.tif", reason="second"),
        Refusal(scene_id="d", file="d/1.tif", reason="first"), Refusal(file="x", reason="odd name"),
    )  # fmt: skip
    words = Listing(where=Path("p"), rows=(row("a"), row("b")), refused=refused).words()
    assert words.splitlines() == [
        "p: 4 scenes found = 2 accepted + 2 refused; 1 files left out",
        "  refused 2: first",
        "  left out 1: odd name",
        "  1 regions: r",
    ]


def test_regions_on_both_sides_of_a_split_are_told() -> None:
    rows = (row("a", split="train"), row("b", split="test"), row("c", "other", split="val"))
    words = Listing(where=Path("p"), rows=rows, refused=()).words()
    assert "splits: train 1, val 1, test 1; tile.split `catalog`" in words
    assert "1 regions stand in several splits" in words
    apart = Listing(where=Path("p"), rows=(row("a", "x", split="train"), row("b", "y", split="test")), refused=())
    assert "stand in several" not in apart.words()


def test_many_regions_are_counted() -> None:
    rows = tuple(row(f"s{n}", f"r{n}") for n in range(10))
    assert (
        "10 regions: r0, r1, r2, r3, r4, r5, r6, r7 and 2 more"
        in Listing(where=Path("p"), rows=rows, refused=()).words()
    )


def test_without_a_scene_the_reasons_are_written_all_the_same(tmp_path: Path) -> None:
    listing = Listing(where=Path("p"), rows=(), refused=(Refusal(scene_id="a", file="f", reason="no SAR"),))
    out = tmp_path / "data/catalog.csv"
    with pytest.raises(DataError, match=r"1 scenes found = 0 accepted \+ 1 refused(.|\n)*no scene to write"):
        write_listing(listing, out, append=False, dry_run=False)
    assert pd.read_csv(tmp_path / "data/catalog.refused.csv").to_numpy().tolist() == [["a", "f", "no SAR"]]
    assert not out.exists()


def test_rows_are_put_to_a_catalogue_only(tmp_path: Path) -> None:
    out = tmp_path / "catalog.csv"
    out.write_text("name,colour\na,red\n")
    listing = Listing(where=Path("p"), rows=(row("a"),), refused=())
    with pytest.raises(CatalogError, match="lacks columns"):
        write_listing(listing, out, append=True, dry_run=False)
    assert out.read_text() == "name,colour\na,red\n"
    write_listing(listing, out, append=False, dry_run=False)
    newer = Listing(
        where=Path("p"), rows=(row("a", "other"), row("b", optical=f"{tmp_path}/b.tif#bands=B02")), refused=()
    )
    write_listing(newer, out, append=True, dry_run=False)
    table = pd.read_csv(out, keep_default_na=False).set_index("scene_id")
    assert table["region"].to_dict() == {"a": "other", "b": "r"}
    assert table["optical"].to_dict() == {"a": "/o.tif", "b": "b.tif#bands=B02"}


@given(text=st.text(min_size=1, max_size=60))
def test_ids_are_made_safe(text: str) -> None:
    check_id(safe_id(text), what="id", where="here")
