"""Stage ``evaluate``: the trained network on the test regions, beside the trivial answers."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cgm2net import tracking
from cgm2net.data.dataset import TABLE, TileDataset
from cgm2net.errors import ModelError
from cgm2net.evaluation.calibration import CALIBRATION_METRICS
from cgm2net.evaluation.explain import explain_ranked
from cgm2net.evaluation.page import write_page
from cgm2net.evaluation.page_parts import (
    NUM_RANKED,
    RANKS,
    PageParts,
    ReportFacts,
    TilePictures,
    region_places,
    tile_pictures,
    tile_places,
    write_parts,
)
from cgm2net.evaluation.report import predicted_samples, ranked_tiles, write_report
from cgm2net.evaluation.score import majority_class, score
from cgm2net.lineage import UNKNOWN, git_facts
from cgm2net.model.interface import Network
from cgm2net.model.network import CGM2Net
from cgm2net.settings import EvaluateSettings
from cgm2net.weights import Card, load


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """What was evaluated, and what a tracker should log."""

    num_tiles: int
    num_files: int
    metrics: dict[str, float] = field(repr=False)
    "Flat, ``cloudy/psnr``."
    files: tuple[Path, ...] = field(repr=False)
    "Everything written."

    def __str__(self) -> str:
        lines = [f"{self.num_tiles} test tiles        all    clear   cloudy"]
        trivial = {"psnr": "copy/", "ssim": "copy/", "sam": "copy/", "miou": "majority/", "oa": "majority/"}
        for name in (*trivial, *CALIBRATION_METRICS):
            for prefix in ("", *([trivial[name]] if name in trivial else [])):
                values = (self.metrics.get(f"{prefix}{group}/{name}") for group in ("all", "clear", "cloudy"))
                shown = " ".join("       -" if value is None else f"{value:8.3f}" for value in values)
                lines.append(f"{prefix + name:18} {shown}")
        return "\n".join(lines)


def evaluate(tiles_dir: Path, model_dir: Path, out_dir: Path, *, settings: EvaluateSettings) -> EvaluateReport:
    """Score a model on the test split.

    Args:
        tiles_dir: folder of the stage ``tile``.
        model_dir: folder with weights and card, of the stage ``train``.
        out_dir: new folder; gets ``metrics.json``, ``by_cover.csv``, ``by_class.csv``, ``confusion.csv``,
            ``reliability.csv``, plots, pictures, ``tiles.parquet``, of a CGM2Net ``explain_TILE.png`` and ``.json``,
            ``page.json`` and, last, ``report.html``.
        settings: batch size, cloud threshold, bins, number of pictures.

    Raises:
        DataError: if the test split is empty.
        ModelError: if the model was trained on other bands or classes.
        BackendError: if the MLflow run that ``model_dir/run.json`` names cannot be logged to.
        MetricError: if an answer or a metric is not finite, or no pixel can be scored.
    """
    network, card = load(model_dir)
    test = TileDataset(tiles_dir, split="test")
    require_fit(card, test, model=str(model_dir), tiles_dir=tiles_dir)
    majority = majority_class(TileDataset(tiles_dir, split="train").table, num_classes=len(test.classes))
    scores = score(network, test, settings=settings, calibration=card.calibration)
    metrics = write_report(scores, network, test, majority=majority, out_dir=out_dir, settings=settings)
    table = pd.read_parquet(out_dir / "tiles.parquet")
    shown = _pictures(network, test, table, settings=settings)
    if isinstance(network, CGM2Net):
        explain_ranked(network, test, table, out_dir, cloud_threshold=settings.cloud_threshold)
    record = model_dir / "run.json"  # weights from elsewhere have no run to log to
    with tracking.attach(record) if record.is_file() else nullcontext() as run:
        parts = PageParts(
            facts=_facts(network, card, test, run, settings=settings),
            pictures=shown,
            regions=region_places(pd.read_parquet(tiles_dir / TABLE)),
            tiles=tile_places(test.table),
        )
        write_parts(out_dir, parts)
        write_page(out_dir, out_dir / "report.html", parts=parts)
        files = tuple(sorted(out_dir.iterdir()))
        if run is not None:
            run.log_metrics({f"test/{name}": value for name, value in metrics.items()})
            run.log_files(files, folder="evaluate")
    return EvaluateReport(num_tiles=len(test), num_files=len(files), metrics=metrics, files=files)


def require_fit(card: Card, tiles: TileDataset, *, model: str, tiles_dir: Path) -> None:
    """Refuse a model of other bands or classes than the tiles have.

    Raises:
        ModelError: says which, of what model and which tiles.
    """
    for name in ("optical_bands", "sar_bands", "classes"):
        if tuple(getattr(card, name)) != tuple(getattr(tiles, name)):
            raise ModelError(
                f"{model}: trained on {name} {getattr(card, name)}, {tiles_dir} has {getattr(tiles, name)};"
                " train on these tiles, or take those"
            )


def _pictures(
    network: Network, test: TileDataset, table: pd.DataFrame, *, settings: EvaluateSettings
) -> tuple[TilePictures, ...]:
    """Draw the tiles of the page, the worst first."""
    ranked = ranked_tiles(table, min(settings.num_pictures, NUM_RANKED))
    shown: list[TilePictures] = []
    for rank in RANKS:
        rows = ranked[rank][::-1] if rank == "worst" else ranked[rank]
        shown += [
            tile_pictures(sample, rank=rank, optical_bands=test.optical_bands, classes=test.classes)
            for sample in predicted_samples(network, test, rows, settings=settings)
        ]
    return tuple(shown)


def _facts(
    network: Network, card: Card, test: TileDataset, run: tracking.Run | None, *, settings: EvaluateSettings
) -> ReportFacts:
    code = git_facts(Path.cwd())
    return ReportFacts(
        title=f"{network.title} {card.config.size}, {card.steps} steps, seed {card.seed}",
        model_name=network.title,
        network_size=card.config.size,
        num_parameters=card.num_parameters,
        steps=card.steps,
        seed=card.seed,
        optical_bands=card.optical_bands,
        sar_bands=card.sar_bands,
        classes=card.classes,
        gsd_m=test.gsd_m,
        size_px=test.size_px,
        cloud_threshold=settings.cloud_threshold,
        data_hash=test.data_hash,
        trained_data_hash=card.data_hash,
        library_version=card.library_version,
        git_commit=code["git_commit"],
        git_dirty=code["git_dirty"],
        run_id=UNKNOWN if run is None else run.run_id,
        run_url=None if run is None else run.url,
    )
