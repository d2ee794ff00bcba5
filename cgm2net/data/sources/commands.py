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
