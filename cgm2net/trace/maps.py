"""What maps say of the model that made them: the STAC items that ``predict`` writes, and the tags of its files."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cgm2net.errors import DataError
from cgm2net.predict.item import ITEM_FILE, PREFIX
from cgm2net.trace.records import Gap, Map
from cgm2net.trace.store import lineage_of

_TAG = "CGM2NET_MODEL_"


def read_map(path: Path) -> Map:
    """Read which model made a product.

    Args:
        path: a GeoTIFF, an ``item.json``, or the folder that holds one.

    Raises:
        DataError: if it was not made by ``predict``.
    """
    if path.is_dir():
        path = path / ITEM_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a product of `predict`, or its folder")
    found = _from_item(path) if path.suffix == ".json" else _from_tags(path)
    if found is None:
        raise DataError(f"{path}: does not say which model made it; only products of `predict` do")
    return found


def maps_in(folders: Iterable[Path]) -> tuple[list[Map], list[Gap]]:
    """Read every ``item.json`` below folders, in order of their paths; those that cannot be read become gaps."""
    maps: list[Map] = []
    gaps: list[Gap] = []
    for folder in folders:
        if not folder.is_dir():
            gaps.append(Gap(link=f"maps in {folder}", why="no such folder; --maps names others"))
        for path in sorted(folder.rglob(ITEM_FILE)):
            try:
                found = _from_item(path)
            except DataError as error:
                gaps.append(Gap(link=f"map {path.parent}", why=str(error)))
                continue
            maps += [found] if found else []  # an item of something else
    return maps, gaps


def _from_item(path: Path) -> Map | None:
    try:
        item = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a STAC item: {error}; predict the scene again") from error
    properties = item.get("properties") if isinstance(item, dict) else None
    model = properties.get(f"{PREFIX}model") if isinstance(properties, dict) else None
    return _map(path.parent, str(item.get("id", "")), model) if isinstance(model, dict) else None


def _from_tags(path: Path) -> Map | None:
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path) as file:
            tags = file.tags()
    except RasterioIOError as error:
        raise DataError(f"{path}: not a raster: {error}") from error
    model = {name.removeprefix(_TAG).lower(): text for name, text in tags.items() if name.startswith(_TAG)}
    return _map(path.parent, path.parent.name, model) if model else None


def _map(folder: Path, scene_id: str, model: Mapping[str, object]) -> Map:
    name, version, run_id, sha256 = (str(model.get(key) or "") for key in ("name", "version", "run_id", "sha256"))
    return Map(
        folder=str(folder), scene_id=scene_id, model=name, version=version, run_id=run_id, model_sha256=sha256,
        made_of=lineage_of(model),
    )  # fmt: skip
