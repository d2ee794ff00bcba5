"""The report of an evaluation: one HTML file that needs no network, for screens of any size and for paper."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from cgm2net import pictures
from cgm2net.errors import DataError
from cgm2net.evaluation import page_tables as tables
from cgm2net.evaluation.metrics import flatten
from cgm2net.evaluation.page_figures import Chart, cover_chart, reliability_chart
from cgm2net.evaluation.page_map import Inset, corners, insets, regions_map
from cgm2net.evaluation.page_parts import RANKS, PageParts, TilePictures
from cgm2net.files import read_json, write_aside

NUM_INSETS = 6
"""Test regions drawn tile by tile, the worst first."""

_TABLES = {
    "by_cover.csv": ("cover",),
    "by_class.csv": ("class",),
    "confusion.csv": ("actual", "predicted"),
    "reliability.csv": ("group",),
}
_OPTIONAL = "reliability.csv"


def write_page(
    evaluate_dir: Path,
    path: Path,
    *,
    parts: PageParts,
    verdict: Mapping[str, Any] | None = None,
    champion: Mapping[str, float] | None = None,
) -> None:
    """Write the report as one HTML file; equal inputs give equal bytes.

    Args:
        evaluate_dir: ``metrics.json``, ``by_cover.csv``, ``by_class.csv``, ``confusion.csv``, ``tiles.parquet`` and,
            where the network is calibrated, ``reliability.csv``.
        path: the file.
        parts: what the tables do not hold.
        verdict: a decision of the stage ``register``, as ``decision.json`` holds it; without it, the page says
            where it will be.
        champion: flat metrics of the last champion on the same tiles; without them, the page compares with the
            trivial answers alone.

    Raises:
        DataError: if a table is absent, or ``parts`` are of another evaluation.
    """
    metrics, frames = _read(evaluate_dir)
    _require_same_evaluation(frames, parts, where=evaluate_dir)
    page = _render(
        facts=parts.facts,
        metrics=metrics,
        verdict=None if verdict is None else _verdict(verdict),
        classes=_swatches(parts.facts.classes),
        **_result(metrics, champion=champion),
        **_by_cover(frames["by_cover.csv"]),
        **_by_class(frames["by_class.csv"], frames["confusion.csv"], parts),
        **_calibration(metrics, frames.get(_OPTIONAL)),
        **_tiles(frames["tiles.parquet"], parts),
        **_regions(frames["tiles.parquet"], parts),
    )
    with write_aside(path) as aside:
        aside.write_text(page, encoding="utf-8", newline="\n")


def _read(folder: Path) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
    wanted = ["metrics.json", *_TABLES, "tiles.parquet"]
    absent = [name for name in wanted if name != _OPTIONAL and not (folder / name).is_file()]
    if absent:
        raise DataError(f"{folder}: lacks {', '.join(absent)}; run the stage `evaluate`, which writes them")
    frames = {name: _read_csv(folder / name, text=text) for name, text in _TABLES.items() if (folder / name).is_file()}
    frames["tiles.parquet"] = pd.read_parquet(folder / "tiles.parquet")
    return flatten(read_json(folder / "metrics.json")), frames


def _require_same_evaluation(frames: Mapping[str, pd.DataFrame], parts: PageParts, *, where: Path) -> None:
    classes, tile_ids = tuple(frames["by_class.csv"]["class"]), set(frames["tiles.parquet"]["tile_id"])
    if classes != parts.facts.classes:
        raise DataError(
            f"{where}: by_class.csv has classes {', '.join(classes)}, the facts have {', '.join(parts.facts.classes)};"
            " run the stage `evaluate` again"
        )
    if strange := sorted({picture.tile_id for picture in parts.pictures} - tile_ids):
        raise DataError(
            f"{where}: tiles.parquet lacks {', '.join(strange)}, of which there are pictures; run `evaluate`"
        )


def _read_csv(path: Path, *, text: Sequence[str]) -> pd.DataFrame:
    # Only an empty field is unknown: by default pandas takes a class called NA for nothing too.
    columns = pd.read_csv(path, nrows=0).columns
    empty = {name: [""] for name in columns if name not in text}
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=empty)


def _result(metrics: Mapping[str, float], *, champion: Mapping[str, float] | None) -> dict[str, Any]:
    return {
        "group": tables.main_group(metrics),
        "headline": tables.headline(metrics, champion=champion),
        "comparison": tables.comparison(metrics, champion=champion),
        "losses": list(tables.losses(metrics)),
    }


def _verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(*tables.named_metric(row["metric"]), row) for row in verdict["comparisons"]]
    return {**verdict, "rows": rows}


def _by_cover(by_cover: pd.DataFrame) -> dict[str, Any]:
    rows = tables.cover_rows(by_cover)
    charts = [
        cover_chart(rows, key="psnr", title="PSNR, dB", trivial="copy", share=False, digits=2),
        cover_chart(rows, key="miou", title="mIoU", trivial="majority", share=True, digits=3),
    ]
    return {"cover_rows": rows, "cover_charts": [chart for chart in charts if chart is not None]}


def _by_class(by_class: pd.DataFrame, confusion: pd.DataFrame, parts: PageParts) -> dict[str, Any]:
    classes = parts.facts.classes
    return {
        "class_rows": tables.class_rows(by_class, pictures.class_colours(classes)),
        "confusions": tables.confusions(confusion, classes),
    }


def _calibration(metrics: Mapping[str, float], reliability: pd.DataFrame | None) -> dict[str, Any]:
    chart: Chart | None = None
    if reliability is not None and reliability["pixels"].sum() > 0:
        chart = reliability_chart(reliability)
    names = ("ece", "coverage", "interval")
    rows = [(group, [metrics.get(f"{group}/{name}") for name in names]) for group in tables.ALL_GROUPS]
    return {"reliability": chart, "doubts": [row for row in rows if any(value is not None for value in row[1])]}


def _tiles(tiles: pd.DataFrame, parts: PageParts) -> dict[str, Any]:
    row_of = {str(row["tile_id"]): row for row in tiles.to_dict("records")}
    shown = [_tile(picture, row_of[picture.tile_id]) for picture in parts.pictures]
    ranks = {rank: [tile for tile in shown if tile["rank"] == rank] for rank in RANKS}
    return {"ranks": [(rank, tiles) for rank, tiles in ranks.items() if tiles]}


def _tile(picture: TilePictures, row: Mapping[Any, Any]) -> dict[str, Any]:
    group = "cloudy" if "cloudy/psnr" in row and tables.known(row["cloudy/psnr"]) is not None else "all"
    paths = {
        "psnr": f"{group}/psnr",
        "copied": f"copy/{group}/psnr",
        "miou": f"{group}/miou",
        "oa": f"{group}/oa",
        "cover": "cover",
    }
    names = ("cloudy", "restored", "reference", "predicted", "label")
    return {
        "id": picture.tile_id,
        "rank": picture.rank,
        "region": row["region"],
        "group": group,
        **{name: tables.known(row.get(path)) for name, path in paths.items()},
        "pictures": {name: _data_uri(getattr(picture, name)) for name in names},
    }


def _regions(tiles: pd.DataFrame, parts: PageParts) -> dict[str, Any]:
    facts = parts.facts
    rows = tables.region_rows(tiles, bands=facts.optical_bands, classes=facts.classes)
    return {"map": regions_map(parts.regions), "region_rows": rows, "insets": _insets(tiles, parts)}


def _insets(tiles: pd.DataFrame, parts: PageParts) -> list[Inset]:
    """PSNR of each place of the test regions, its dates pooled; of cloudy pixels where it has some."""
    facts = parts.facts
    place_of = {tile.tile_id: corners(tile) for tile in parts.tiles}
    placed = tiles[tiles["tile_id"].isin(list(place_of))]
    values = {}
    for place, part in placed.groupby(placed["tile_id"].map(place_of)):
        metrics = tables.pooled(part, bands=facts.optical_bands, classes=facts.classes)
        value = metrics.get("cloudy/psnr", metrics.get("all/psnr"))
        if value is not None:
            values[place] = value
    region_of = dict(zip(tiles["tile_id"], tiles["region"], strict=True))
    return insets(parts.tiles, region_of=region_of, values=values, num=NUM_INSETS)


def _swatches(classes: Sequence[str]) -> list[tuple[str, str]]:
    colours = [*pictures.class_colours(classes), pictures.UNLABELLED_COLOUR]
    return list(zip([*classes, "no label"], colours, strict=True))


def _render(**context: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "signed": signed, "link": link}
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(script=script, script_sha256=digest, **context)


def number(value: float | None, digits: int = 0) -> str:
    """Write a number with a true minus sign and commas at the thousands, a missing one as a dash."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None, digits: int = 0) -> str:
    """Write a difference with its sign; no sign where it rounds to nothing."""
    if value is None:
        return "–"
    text = number(abs(value), digits)
    if float(text.replace(",", "")) == 0.0:
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def link(url: str | None) -> str | None:
    """Return an address of the web as it is, and None for anything else, so that no link runs code."""
    return url if url is not None and urlsplit(url).scheme in ("http", "https") else None


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
