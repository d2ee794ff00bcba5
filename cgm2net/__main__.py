"""``python -m cgm2net COMMAND``: one command a stage, run in the project's root, as dvc.yaml calls them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.logging import RichHandler

from cgm2net.data.sources.commands import CATALOG, catalog, guarded
from cgm2net.registry_commands import check, link, moves, promote, reproduce, rollback, trace
from cgm2net.settings import CloudmaskSettings, MonitorSettings, Settings, read_settings

PARAMS = Path("params.yaml")
ARTIFACTS = Path("artifacts")
CLOUD_METHODS = get_args(CloudmaskSettings.model_fields["method"].annotation)


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

    verdicts, tiles, model, scores = (ARTIFACTS / name for name in ("validate", "tile", "train", "evaluate"))
    _run(
        "register",
        lambda settings, out: stage(
            verdicts, tiles, model, scores, out, settings=settings.register_, evaluate_settings=settings.evaluate
        ),
    )


main.add_command(catalog)


@main.group()
def intake() -> None:
    """Join a source's scenes to data/catalog.csv one by one; `python -m pipelines ingest` runs all of it."""


_batch = click.option("--batch", "batch_dir", type=click.Path(path_type=Path), required=True, help="Folder of the new.")


@intake.command("select")
@click.argument("source")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default=CATALOG.parent, show_default=True)
@_batch
@click.option("--again", is_flag=True, help="Take scenes in quarantine too, though their files are the same.")
def intake_select(**options: Any) -> None:
    """Pick from SOURCE, a catalogue's path or URL, the scenes that have not been judged yet."""
    from cgm2net.data.intake import select as command

    guarded(lambda: command(**options))


@intake.command("settle")
@_batch
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default=CATALOG.parent, show_default=True)
@click.option(
    "--out", "out_dir", type=click.Path(path_type=Path), required=True, help="Gets the tables as they will be."
)
@click.option("--source", required=True, help="What the quarantine shall say of where they came from.")
def intake_settle(**options: Any) -> None:
    """Say which scenes of a batch are accepted and which refused, after `download` and `validate` ran in its folder."""
    from datetime import UTC, datetime

    from cgm2net.data.intake import settle as command

    guarded(lambda: command(**options, when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))


@intake.command("arrived")
@click.argument("scenes", type=click.Path(path_type=Path))
@click.option("--catalog", "catalog_file", type=click.Path(path_type=Path), default=CATALOG, show_default=True)
@_batch
def intake_arrived(scenes: Path, catalog_file: Path, batch_dir: Path) -> None:
    """Write the catalogue of the scenes that SCENES, a stage's scenes.csv, does not hold yet."""
    from cgm2net.data.intake import arrived as command

    guarded(lambda: f"{command(catalog_file, scenes, batch_dir)} scenes came in")


@main.command()
@click.argument("incoming", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("--out", "out_dir", type=click.Path(path_type=Path), required=True, help="Gets drift.{json,csv,html}.")
@click.option("--confidence", type=click.Path(path_type=Path), help="What `confidence` wrote of these two.")
@click.option("--max-psi", type=float, help="Population stability index above which it is drift,")
@click.option("--max-chance", type=float, help="unless as large by chance more often than this.")
@click.option("--min-scenes", type=int, help="On either side, for a feature to be judged; params.yaml says what else.")
@click.option("--fail", is_flag=True, help="End with 1 when something drifted.")
def drift(**options: Any) -> None:
    """Compare a batch of scenes with those that a model was trained on.

    INCOMING and REFERENCE hold what validate, coregister and cloudmask wrote, as artifacts/ does.
    """
    from cgm2net.data.drift_page import report_drift as command

    def run() -> str:
        settings = read_settings(PARAMS).monitor if PARAMS.is_file() else MonitorSettings()
        limits = {name: limit for name, limit in settings if options[name] is None}
        return command(**{**options, **limits})

    guarded(run)


@main.command()
@click.argument("incoming", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("--out", "out_dir", type=click.Path(path_type=Path), required=True, help="For `drift --confidence`.")
@click.option("--model", default="models:/cgm2net@champion", show_default=True, help="Or a folder of weights.")
def confidence(**options: Any) -> None:
    """Measure how sure a model is of a batch of scenes, and of those of the training set that it did not learn from.

    INCOMING and REFERENCE are as of `drift`; where there is no such model, that is written down and no error.
    """
    from cgm2net.predict.confidence import measure_confidence as command

    guarded(lambda: command(**options))


@main.command()
@click.option("--optical", type=click.Path(path_type=Path), help="Cloudy image: GeoTIFF with band names, DN.")
@click.option("--sar", type=click.Path(path_type=Path), help="SAR image of the same ground: VV, VH in dB.")
@click.option("--cloud", type=click.Path(path_type=Path), help="Cloud mask, if there is one: 0-1, or an SCL.")
@click.option("--catalog", "catalog_file", type=click.Path(path_type=Path), help="Predict every scene of a catalogue.")
@click.option("--folder", type=click.Path(path_type=Path), help="Predict every SCENE_ID/{optical,sar}.tif in it.")
@click.option("--items", nargs=2, metavar="OPTICAL SAR", help="Two STAC items: Sentinel-2 and Sentinel-1 RTC.")
@click.option("--model", "uri", default="models:/cgm2net@champion", show_default=True, help="Or a folder of weights.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Gets a folder a scene.")
@click.option("--scene-id", help="Name of the scene; the optical file's by default.")
@click.option("--optical-bands", help="Names of the bands, in the file's order, where it has none: B02,B03,…")
@click.option("--sar-bands", help="The same of the SAR file.")
@click.option("--offset", type=float, default=0.0, help="Added to every DN: -1000 from processing baseline 04.00 on.")
@click.option("--keep-clear", is_flag=True, help="Pixels that the mask calls clear keep their measured values.")
@click.option("--params", type=click.Path(path_type=Path), help="Take coregister and cloudmask from this params.yaml.")
@click.option("--cloud-method", type=click.Choice(CLOUD_METHODS), help="See cloudmask.")
@click.option("--batch-size", type=int, help="Windows that the network sees at once; 1 on the CPU, 16 on CUDA.")
def predict(**options: Any) -> None:
    """Restore and map whole scenes: COGs, a STAC item and a quick-look for each."""
    from cgm2net.predict.command import predict as command

    guarded(lambda: command(**options))


@main.command()
@click.argument("scene", required=False)
@click.option("--optical", type=click.Path(path_type=Path), help="In place of SCENE: cloudy image, as `predict` takes.")
@click.option("--sar", type=click.Path(path_type=Path), help="SAR image of the same ground.")
@click.option("--cloud", type=click.Path(path_type=Path), help="Cloud mask, if there is one.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Gets explain_TILE.png and .json.")
@click.option("--model", "uri", default=str(ARTIFACTS / "train"), show_default=True, help="Or models:/NAME@ALIAS.")
@click.option("--tiles", type=click.Path(path_type=Path), default=ARTIFACTS / "tile", show_default=True)
def explain(scene: str | None, **options: Any) -> None:
    """Draw what the network did with SCENE, part by part.

    SCENE is a tile, or a scene, of which the most clouded tile is taken; of files it is the window of 256 px that is
    nearest to half clouded.
    """
    from cgm2net.predict.command import explain as command

    guarded(lambda: command(scene, **options))


@main.command()
@click.option("--model", "uri", default="models:/cgm2net@champion", show_default=True, help="Or a folder of weights.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--format", "formats", type=click.Choice(["onnx", "torch"]), multiple=True, default=["onnx", "torch"])
def export(uri: str, out: Path, formats: tuple[Any, ...]) -> None:
    """Write the network as ONNX and torch.export programs; print how far they are from it."""
    from cgm2net.predict.command import export as command

    guarded(lambda: command(uri, out, formats=formats))


@main.command()
@click.option("--suite", type=click.Choice(["baselines", "ablations"]), required=True)
@click.option("--seeds", default=3, show_default=True, help="Trainings of each network.")
@click.option("--budget", "budgets", type=click.Choice(["steps", "time"]), multiple=True, default=["steps", "time"])
@click.option("--only", multiple=True, help="Names of variants; all of the suite by default.")
@click.option("--jobs", "num_jobs", default=1, show_default=True, help="Trainings at once.")
@click.option("--threads", "num_threads", type=int, help="Of each training; train.num_threads by default.")
@click.option("--steps", type=int, help="Instead of train.steps.")
@click.option("--tiles", type=click.Path(path_type=Path), default=ARTIFACTS / "tile", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def compare(**options: Any) -> None:
    """Train and judge networks on the same tiles, budgets and seeds; goes on where it was interrupted."""
    from cgm2net.comparison.command import compare_by_settings as command

    guarded(lambda: command(read_settings(PARAMS), **options))


for _command in (promote, rollback, moves, check, link, trace, reproduce):
    main.add_command(_command)


def _run(stage: str, work: Callable[[Settings, Path], Any]) -> None:
    def run() -> object:
        out = ARTIFACTS / stage
        out.mkdir(parents=True, exist_ok=True)
        return work(read_settings(PARAMS), out)

    guarded(run)


if __name__ == "__main__":
    main()
