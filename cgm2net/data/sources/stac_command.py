"""What the command ``catalog stac`` does: search, show, and write documents, the catalogue and what was refused."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from cgm2net.catalog import COLUMNS, read_catalog
from cgm2net.compute import progress_bar
from cgm2net.data.sources.listing import Listing, Refusal, write_listing, write_refused
from cgm2net.data.sources.stac import Found, Paired, Tell, Wanted, find_scenes
from cgm2net.data.sources.stac_api import require_sar, service
from cgm2net.data.sources.stac_areas import Area, areas_from_box, areas_from_file
from cgm2net.data.sources.stac_documents import read_document, write_document
from cgm2net.errors import CatalogError

DOCUMENTS = "stac"
"""Folder beside the catalogue that holds the documents."""

_NUM_SHOWN = 50


def search(
    *,
    aoi: Path | None,
    bbox: str | None,
    region: str,
    start: datetime | None,
    end: datetime | None,
    last_days: int | None,
    append: bool,
    dry_run: bool,
    out: Path,
    **options: Any,
) -> str:
    """Search, and write what was found; return what to say of it.

    Raises:
        CatalogError: if an option or an existing catalogue cannot be used.
        DataError: if nothing is found, or everything refused, and there is no catalogue to append to.
        FetchError: at a fault of the network that outlasts the tries.
    """
    areas = _areas(aoi, bbox, region)
    wanted = _wanted(*_period(start, end, last_days), **options)
    existing = _existing_rows(out) if append else pd.DataFrame(columns=[*COLUMNS])
    with _progress() as tell:
        found = find_scenes(
            areas, wanted, existing=set(existing["scene_id"]), orbits=_known_orbits(existing, out.parent), tell=tell
        )
    listing = _listing(found, areas, out, write=not dry_run)
    there = f"; {len(found.there)} more are there already" if found.there else ""
    if dry_run:
        _show(found)
        return f"{listing.words()}{there}\n  nothing written, as asked"
    if not found.paired and len(existing):
        write_refused(listing, out.with_suffix(".refused.csv"))
        return f"{listing.words()}{there}\n  {out}: nothing new"
    said = write_listing(listing, out, append=append, dry_run=False)
    if any("cloud" in one.scene.roles for one in found.paired):
        said += "\n  their masks are scene classifications: cloudmask.method: scl, product_level: l2a in params.yaml"
    return said + there


def _areas(aoi: Path | None, bbox: str | None, region: str) -> list[Area]:
    if (aoi is None) == (bbox is None):
        raise CatalogError("where? give either --aoi FILE (GeoJSON) or --bbox WEST,SOUTH,EAST,NORTH")
    if aoi is not None:
        return areas_from_file(aoi, region=region)
    try:
        bounds = [float(number) for number in str(bbox).split(",")]
    except ValueError:
        bounds = []
    if len(bounds) != 4:
        raise CatalogError(f"--bbox {bbox}: wanted WEST,SOUTH,EAST,NORTH in degrees, commas between")
    return areas_from_box(bounds, region=region)


def _period(start: datetime | None, end: datetime | None, last_days: int | None) -> tuple[datetime, datetime]:
    if (start is None) == (last_days is None):
        raise CatalogError("when? give either --start (and --end) or --last-days")
    last = end.replace(tzinfo=UTC) + timedelta(days=1, seconds=-1) if end else datetime.now(UTC).replace(microsecond=0)
    first = start.replace(tzinfo=UTC) if start else last - timedelta(days=last_days or 0)
    if first >= last:
        raise CatalogError(f"--start {first:%Y-%m-%d} is not before --end {last:%Y-%m-%d}")
    return first, last


def _wanted(
    start: datetime, end: datetime, *, api: str, sar_api: str | None, sign: str | None, sar_sign: str | None,
    collection: str | None, sar_collection: str | None, bands: str, **limits: Any,
) -> Wanted:  # fmt: skip
    optical = service(api, sign=sign or "", optical=collection or "")
    radar = service(sar_api or api, sign=sar_sign or ("" if sar_api else sign) or "", sar=sar_collection or "")
    require_sar(radar)
    return Wanted(start=start, end=end, optical=optical, sar=radar, optical_bands=tuple(bands.split(",")), **limits)


def _existing_rows(out: Path) -> pd.DataFrame:
    """Return the catalogue's rows as they stand there, their paths not resolved."""
    if not out.is_file():
        return pd.DataFrame(columns=[*COLUMNS])
    read_catalog(out)
    return pd.read_csv(out, dtype=str, keep_default_na=False)


def _known_orbits(rows: pd.DataFrame, folder: Path) -> Mapping[str, Sequence[str]]:
    """Return region -> SAR orbit of each scene that came from here."""
    orbits: dict[str, list[str]] = {}
    for row in rows[rows["source"] == "stac"].to_dict("records"):
        document = folder / DOCUMENTS / f"{row['scene_id']}.json"
        if document.is_file():
            orbit = read_document(document).roles["sar"].items[0].orbit
            orbits.setdefault(str(row["region"]), []).append(orbit)
    return orbits


def _listing(found: Found, areas: Sequence[Area], out: Path, *, write: bool) -> Listing:
    """Return what goes into the catalogue; the documents that its rows point into are written first, if at all."""
    documents = out.parent / DOCUMENTS
    uris = [write_document(one.scene, documents) if write else {} for one in found.paired]
    return Listing(
        where=Path(areas[0].name if len(areas) == 1 else f"{len(areas)} areas"),
        rows=tuple(one.row(files) for one, files in zip(found.paired, uris, strict=True)),
        refused=tuple(Refusal(scene_id=name, file="", reason=reason) for name, reason in found.refused),
    )


@contextmanager
def _progress() -> Iterator[Tell]:
    with progress_bar() as progress:
        bars: dict[str, Any] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done)

        yield tell


def _show(found: Found) -> None:
    pairs = Table(_id("scene"), "cloud", "SAR", "days", "orbit", "clear reference", title="pairs")
    for one in found.paired[:_NUM_SHOWN]:
        pairs.add_row(*_cells(one))
    refused = Table(_id("overflight"), "reason", title="left out")
    for name, reason in found.refused[:_NUM_SHOWN]:
        refused.add_row(name, reason)
    console = Console()
    for table, count in ((pairs, len(found.paired)), (refused, len(found.refused))):
        if count:
            table.caption = f"{count - _NUM_SHOWN} more" if count > _NUM_SHOWN else None
            console.print(table)


def _id(title: str) -> Column:
    return Column(title, no_wrap=True, overflow="fold")


def _cells(one: Paired) -> Sequence[str]:
    optical, radar = one.scene.roles["optical"], one.scene.roles["sar"]
    days = (one.acquired_sar - one.acquired_optical).total_seconds() / 86_400
    clear = "none"
    if one.acquired_reference:
        clear = f"{one.acquired_reference:%Y-%m-%d}, {one.scene.roles['reference'].cloud_share:.0%} cloud"
    return (
        one.scene.scene_id, f"{optical.cloud_share:.0%}", f"{one.acquired_sar:%Y-%m-%d %H:%M}", f"{days:+.1f}",
        radar.items[0].orbit or "?", clear,
    )  # fmt: skip
