"""``python -m cgm2net COMMAND``: one command a stage, run in the project's root, as dvc.yaml calls them."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from cgm2net.errors import CGM2NetError
from cgm2net.settings import Settings, read_settings

PARAMS = Path("params.yaml")
CATALOG = Path("data/catalog.csv")
ARTIFACTS = Path("artifacts")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Cloud removal and land-cover mapping from cloudy optical and SAR images.

    The stages run in the order of dvc.yaml; `dvc repro` runs those that are out of date.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("cgm2net").setLevel(logging.INFO)


@main.command()
def download() -> None:
    """Make every URI of the catalogue a checked local file."""
    from cgm2net.data.download import download as stage

    _run("download", lambda settings, out: stage(CATALOG, out, settings=settings.download))


@main.command()
def validate() -> None:
    """Judge every scene; refuse with reasons, shown in the data docs."""
    from cgm2net.data.validate import validate as stage

    scenes = ARTIFACTS / "download" / "scenes.csv"
    _run("validate", lambda settings, out: stage(scenes, out, settings=settings.validate_))


@main.command()
def coregister() -> None:
    """Bring SAR, reference, label and cloud onto the optical grid, and SAR onto the optics."""
    from cgm2net.data.coregister import coregister as stage

    scenes = ARTIFACTS / "validate" / "scenes.csv"
    _run("coregister", lambda settings, out: stage(scenes, out, settings=settings.coregister))


@main.command()
def cloudmask() -> None:
    """Find clouds and their shadows."""
    from cgm2net.data.cloudmask import cloudmask as stage

    scenes = ARTIFACTS / "coregister" / "scenes.csv"
    _run("cloudmask", lambda settings, out: stage(scenes, out, settings=settings.cloudmask))


@main.command()
def tile() -> None:
    """Split by region and cut into tiles."""
    from cgm2net.data.tile import tile as stage

    scenes = ARTIFACTS / "cloudmask" / "scenes.csv"
    _run("tile", lambda settings, out: stage(scenes, out, settings=settings.tile, seed=settings.seed))


@main.command()
def train() -> None:
    """Train the network."""
    from cgm2net.training.train import train as stage

    _run("train", lambda settings, out: stage(ARTIFACTS / "tile", out, settings=settings.train, seed=settings.seed))


@main.command()
def evaluate() -> None:
    """Score the network on the test regions, beside the trivial answers."""
    from cgm2net.evaluation.evaluate import evaluate as stage

    tiles, model = ARTIFACTS / "tile", ARTIFACTS / "train"
    _run("evaluate", lambda settings, out: stage(tiles, model, out, settings=settings.evaluate))


@main.command()
def register() -> None:
    """Register the model; promote it if it beats the champion by the rule."""
    from cgm2net.register import register as stage

    tiles, model, scores = (ARTIFACTS / name for name in ("tile", "train", "evaluate"))
    _run(
        "register",
        lambda settings, out: stage(
            tiles, model, scores, out, settings=settings.register_, evaluate_settings=settings.evaluate
        ),
    )


@main.group()
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
    _guard(lambda: _write_catalog(pd.DataFrame(rows), out))


@catalog.command("file")
@click.argument("path", type=click.Path(path_type=Path))
@_out
def from_file(path: Path, out: Path) -> None:
    """Take the rows of another catalogue; URIs relative to its folder become absolute."""
    from cgm2net.catalog import read_catalog

    _guard(lambda: _write_catalog(read_catalog(path), out))


def _write_catalog(table: Any, out: Path) -> str:
    from cgm2net.catalog import write_catalog

    write_catalog(table, out)
    return f"{out}: {len(table)} scenes; pin it with `dvc add {out.parent}`"


def _run(stage: str, work: Callable[[Settings, Path], Any]) -> None:
    def run() -> object:
        out = ARTIFACTS / stage
        out.mkdir(parents=True, exist_ok=True)
        return work(read_settings(PARAMS), out)

    _guard(run)


def _guard(work: Callable[[], object]) -> None:
    """Print what comes back; end with 1 and the message alone where this library refuses something."""
    try:
        said = work()
        if said is not None:
            click.echo(str(said))
    except CGM2NetError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
