"""Stage ``evaluate``: the trained network on the test regions, beside the trivial answers."""

from dataclasses import dataclass, field
from pathlib import Path

from cgm2net import tracking
from cgm2net.data.dataset import TileDataset
from cgm2net.errors import ModelError
from cgm2net.evaluation.report import write_report
from cgm2net.evaluation.score import majority_class, score
from cgm2net.model.weights import load
from cgm2net.settings import EvaluateSettings


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
        for name, trivial in (
            ("psnr", "copy"),
            ("ssim", "copy"),
            ("sam", "copy"),
            ("miou", "majority"),
            ("oa", "majority"),
        ):
            for prefix in ("", f"{trivial}/"):
                values = (self.metrics.get(f"{prefix}{group}/{name}") for group in ("all", "clear", "cloudy"))
                shown = " ".join("       -" if value is None else f"{value:8.3f}" for value in values)
                lines.append(f"{prefix + name:18} {shown}")
        return "\n".join(lines)


def evaluate(tiles_dir: Path, model_dir: Path, out_dir: Path, *, settings: EvaluateSettings) -> EvaluateReport:
    """Score a model on the test split.

    Args:
        tiles_dir: folder of the stage ``tile``.
        model_dir: folder with weights and card, of the stage ``train``.
        out_dir: new folder; gets ``metrics.json``, ``by_cover.csv``, ``by_class.csv``, ``confusion.csv``, plots,
            pictures and, last, ``tiles.parquet``.
        settings: batch size, cloud threshold, bins, number of pictures.

    Raises:
        DataError: if the test split is empty.
        ModelError: if the model was trained on other bands or classes.
        BackendError: if the MLflow run that ``model_dir/run.json`` names cannot be logged to.
        MetricError: if an answer or a metric is not finite, or no pixel can be scored.
    """
    network, card = load(model_dir)
    test = TileDataset(tiles_dir, split="test")
    for name in ("optical_bands", "sar_bands", "classes"):
        if tuple(getattr(card, name)) != tuple(getattr(test, name)):
            raise ModelError(
                f"{model_dir}: trained on {name} {getattr(card, name)}, {tiles_dir} has {getattr(test, name)};"
                " train on these tiles, or evaluate on those"
            )
    majority = majority_class(TileDataset(tiles_dir, split="train").table, num_classes=len(test.classes))
    scores = score(network, test, settings=settings)
    metrics = write_report(scores, network, test, majority=majority, out_dir=out_dir, settings=settings)
    files = tuple(sorted(out_dir.iterdir()))
    record = model_dir / "run.json"
    if record.is_file():  # weights from elsewhere have no run to log to
        with tracking.attach(record) as run:
            run.log_metrics({f"test/{name}": value for name, value in metrics.items()})
            run.log_files(files, folder="evaluate")
    return EvaluateReport(num_tiles=len(test), num_files=len(files), metrics=metrics, files=files)
