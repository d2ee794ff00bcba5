"""``python -m cgm2net catalog SOURCE …``: a source's scenes as rows of data/catalog.csv."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cgm2net.errors import CGM2NetError

CATALOG = Path("data/catalog.csv")


@click.group()
def catalog() -> None:
    """Write data/catalog.csv from a source; then pin it with `dvc add data`."""


_out = click.option("--out", type=click.Path(path_type=Path), default=CATALOG, show_default=True)


@catalog.command()
@click.option("--regions", default=12, show_default=True, help="Landscapes, each on one side of the split.")
@click.option("--scenes", default=2, show_default=True, help="Dates of each region.")
@click.option("--size-px", default=384, show_default=True, help="Height and width of a scene.")
@click.option("--seed", default=0, show_default=True)
@_out
def synthetic(regions: int, scenes: int, size_px: int, seed: int, out: Path) -> None:
    """Write the built-in sample: good scenes, and one of each defect that validation must find."""
    import pandas as pd

    from cgm2net.data.synthetic import sample_catalog

    rows = sample_catalog(num_regions=regions, scenes_per_region=scenes, size_px=size_px, seed=seed)
    guarded(lambda: write_rows(pd.DataFrame(rows), out))


@catalog.command("file")
@click.argument("path", type=click.Path(path_type=Path))
@_out
def from_file(path: Path, out: Path) -> None:
    """Take the rows of another catalogue; URIs relative to its folder become absolute."""
    from cgm2net.catalog import read_catalog

    guarded(lambda: write_rows(read_catalog(path), out))


_day = click.DateTime(["%Y-%m-%d"])
_share = click.FloatRange(0, 1)


_path = click.argument("path", type=click.Path(path_type=Path))
_append = click.option("--append", is_flag=True, help="Keep the catalogue's other scenes.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")


@catalog.command("m3m_cr")
@_path
@click.option(
    "--split", type=click.Choice(["given", "region"]), default="given", show_default=True,
    help="given: as folders and lists say; region: none, the pipeline makes its own.",
)  # fmt: skip
@_append
@_dry_run
@_out
def m3m_cr(path: Path, split: str, **how: Any) -> None:
    """List a copy of M3M-CR: PATH holds train and test, and perhaps split lists."""
    from cgm2net.data.sources.m3m_cr import list_m3m_cr

    _list(lambda: list_m3m_cr(path, split=split), **how)


@catalog.command("luojiaset_osfcr")
@_path
@click.option(
    "--split", type=click.Choice(["region", "random"]), default="region", show_default=True,
    help="region: none, the pipeline makes its own; random: see above.",
)  # fmt: skip
@click.option(
    "--offset", type=click.Choice(["auto", "0", "-1000"]), default="auto", show_default=True,
    help="Added to every DN of Sentinel-2; auto finds +1000 in each file by B10.",
)  # fmt: skip
@_append
@_dry_run
@_out
def luojiaset_osfcr(path: Path, split: str, offset: Any, **how: Any) -> None:
    """List a copy of LuojiaSET-OSFCR: PATH holds the bins of cloud cover.

    --split random is that of the published loaders; it puts neighbouring ground on both sides.
    """
    from cgm2net.data.sources.luojiaset_osfcr import list_luojiaset_osfcr

    _list(lambda: list_luojiaset_osfcr(path, split=split, offset=offset), **how)


@catalog.command("sen12ms_cr")
@_path
@click.option(
    "--split", type=click.Choice(["published", "region"]), default="published", show_default=True,
    help="published: the authors', by region; region: none, the pipeline makes its own.",
)  # fmt: skip
@click.option("--download", is_flag=True, help="First fetch and unpack the archives into PATH; some 240 GB in all.")
@click.option("--season", "seasons", type=click.Choice(["spring", "summer", "fall", "winter"]), multiple=True)
@click.option("--modality", "modalities", type=click.Choice(["s1", "s2", "s2_cloudy"]), multiple=True)
@click.option("--url", help="What an archive's name is put behind, instead of the authors' server.")
@click.option("--checksums", type=click.Path(path_type=Path), help="SHA-256 of the archives, as sha256sum writes them.")
@_append
@_dry_run
@_out
def sen12ms_cr(path: Path, split: str, download: bool, dry_run: bool, **options: Any) -> None:
    """List an unpacked copy of SEN12MS-CR in PATH, or download it there."""
    from cgm2net.data.sources.sen12ms_archives import fetch_missing
    from cgm2net.data.sources.sen12ms_cr import list_sen12ms_cr

    how = {name: options.pop(name) for name in ("append", "out")}
    if download:
        guarded(lambda: fetch_missing(path, dry_run=dry_run, **options))
    if not (download and dry_run):
        _list(lambda: list_sen12ms_cr(path, split=split), dry_run=dry_run, **how)


@catalog.command("folder")
@_path
@click.option("--optical-bands", help="Names of the bands, in the files' order, where they have none: B02,B03,…")
@click.option("--sar-bands", help="The same of the SAR files.")
@click.option("--scale", type=float, default=1.0, help="Optical values x scale + offset are reflectance x 10000.")
@click.option("--offset", type=float, default=0.0, help="-1000 from processing baseline 04.00 on.")
@click.option("--linear", is_flag=True, help="SAR is in linear power.")
@click.option("--label-codes", help="Stored code and class code: 10:0,20:1,…; others become unknown.")
@click.option("--region-pattern", help="What its group finds in a scene's name is its region; else each is its own.")
@click.option("--license", "license_name", default="", help="Of the files.")
@_append
@_dry_run
@_out
def folder(path: Path, region_pattern: str | None, license_name: str, **options: Any) -> None:
    """List your own scenes: PATH/SCENE_ID/{optical,sar,reference,label,cloud}.tif, the last three if there are any."""
    from cgm2net.data.sources.folder import list_folder, readings_of

    how = {name: options.pop(name) for name in ("append", "dry_run", "out")}
    _list(
        lambda: list_folder(
            path, readings=readings_of(**options), region_pattern=region_pattern, license_name=license_name
        ),
        **how,
    )


@catalog.command()
@click.option("--aoi", type=click.Path(path_type=Path), help="Areas: GeoJSON, a scene's place each feature.")
@click.option("--bbox", help="In place of --aoi: WEST,SOUTH,EAST,NORTH in degrees.")
@click.option("--region", default="", help="Of all scenes; by default a feature's name or id, or its 10 km cell.")
@click.option("--start", type=_day, help="First day of the optical images.")
@click.option("--end", type=_day, help="Last day; today by default.")
@click.option("--last-days", type=click.IntRange(1), help="In place of --start: a window that moves along.")
@click.option("--api", default="planetary-computer", show_default=True, help="Or earth-search, or a URL.")
@click.option("--sar-api", help="Where SAR comes from, if from elsewhere.")
@click.option("--collection", help="Of Sentinel-2 L2A, where it is not sentinel-2-l2a.")
@click.option("--sar-collection", help="Of Sentinel-1 RTC, where it is not sentinel-1-rtc.")
@click.option("--sign", envvar="CGM2NET_STAC_SIGN", help="none, planetary-computer or MODULE:FUNCTION; see README.")
@click.option("--sar-sign", help="The same for --sar-api.")
@click.option("--bands", default="B02,B03,B04,B08,B11,B12", show_default=True, help="Of the optical files.")
@click.option("--gsd-m", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Pixel size.")
@click.option("--max-cloud", type=_share, default=0.9, show_default=True, help="Share of a scene that may be hidden.")
@click.option(
    "--min-covered", type=_share, default=0.9, show_default=True, help="Share of a scene that must be measured."
)
@click.option("--max-days", type=click.FloatRange(0), default=3.0, show_default=True, help="Between optics and SAR.")
@click.option("--same-orbit", is_flag=True, help="Prefer SAR of one relative orbit within an area.")
@click.option(
    "--clear-below", type=_share, default=0.05, show_default=True, help="Share of a clear reference that may be hidden."
)
@click.option(
    "--reference-days",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="To the clear reference; 0: none.",
)
@click.option("--require-reference", is_flag=True, help="Refuse scenes without one.")
@click.option(
    "--max-per-second",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="Requests to an API.",
)
@click.option("--append", is_flag=True, help="Keep the rows that are there; scenes that are there stay as they are.")
@click.option("--dry-run", is_flag=True, help="Show the pairs and what is left out; write nothing.")
@_out
def stac(**options: Any) -> None:
    """Search Sentinel-2 L2A and Sentinel-1 RTC; `download` then reads the areas' windows alone."""
    from cgm2net.data.sources.stac_command import search

    guarded(lambda: search(**options))


def _list(work: Callable[[], Any], *, append: bool, dry_run: bool, out: Path) -> None:
    from cgm2net.data.sources.listing import write_listing

    guarded(lambda: write_listing(work(), out, append=append, dry_run=dry_run))


def write_rows(table: Any, out: Path) -> str:
    """Write a catalogue; return what to say of it."""
    from cgm2net.catalog import write_catalog

    write_catalog(table, out)
    return f"{out}: {len(table)} scenes; pin it with `dvc add {out.parent}`"


def guarded(work: Callable[[], object]) -> None:
    """Print what comes back; end with 1 and the message alone where this library refuses something."""
    try:
        said = work()
        if said is not None:
            click.echo(str(said))
    except CGM2NetError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
