"""A scene's products as a STAC item: where, when, what the numbers mean, and what they were made of."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odc.geo.geobox import GeoBox
from pyproj import CRS

from cgm2net.errors import CatalogError
from cgm2net.files import sha256_file, write_json
from cgm2net.predict.layers import Layer, layers
from cgm2net.predict.windows import WINDOW_PX
from cgm2net.sensors import COMMON_NAMES, band

if TYPE_CHECKING:
    import pystac
    from pystac.extensions.classification import Classification
    from pystac.extensions.mlm import ModelInput, ModelOutput

    from cgm2net.predict.scene import SceneInputs
    from cgm2net.weights import Card

Ring = list[list[float]]

ITEM_FILE = "item.json"
THUMBNAIL_FILE = "quicklook.png"
PREFIX = "cgm2net:"
"""Of the properties that say what the products were made of."""

_NEVER_SAID = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
_ROLES = {
    "restored": ["data", "reflectance"],
    "uncertainty": ["data", "uncertainty"],
    "classes": ["data", "classification"],
    "confidence": ["data", "confidence"],
    "cloud": ["data", "cloud", "cloud-shadow"],
    "origin": ["metadata", "data-mask"],
}
_SIDE_POINTS = 8  # a side of the footprint, straight on the grid, bends in degrees
_DEGREE_DIGITS = 7


def write_item(
    folder: Path, *, inputs: "SceneInputs", grid: GeoBox, card: "Card", provenance: Mapping[str, object]
) -> Path:
    """Write ``item.json``; equal scenes give equal bytes.

    Optics say when: the restored image shows the moment of the optical acquisition, or the SAR's where that of the
    optics is not known; start and end hold both. Where neither is known ``datetime`` is null, as it is for a mere
    date, and start and end lie so far apart that they are true of any scene.

    Args:
        folder: holds the layers; the quick-look may come later.
        inputs: names the scene and its times.
        grid: grid of the layers.
        card: of the model.
        provenance: facts that JSON can hold, each a property ``cgm2net:NAME``; ``model`` holds its ``name``,
            ``version`` and ``sha256``.

    Returns:
        The file.

    Raises:
        CatalogError: if a time is not RFC 3339.
    """
    import pystac
    from pystac.extensions.projection import ProjectionExtension

    rings = _footprint(grid)
    first, last, moment = _times(inputs)
    item = pystac.Item(
        id=inputs.scene_id, geometry=_geometry(rings), bbox=_bbox(rings), datetime=moment,
        start_datetime=first, end_datetime=last, properties={"gsd": card.gsd_m},
    )  # fmt: skip
    item.properties |= {PREFIX + name: value for name, value in provenance.items()}
    crs = CRS.from_user_input(str(grid.crs))
    code = crs.to_epsg()
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=f"EPSG:{code}" if code else None, wkt2=None if code else crs.to_wkt(),
        bbox=list(grid.extent.boundingbox.bbox), shape=list(grid.shape), transform=list(grid.transform)[:6],
    )  # fmt: skip
    for layer in layers(optical_bands=card.optical_bands, classes=card.classes):
        _add_layer(item, folder, layer)
    item.add_asset("thumbnail", pystac.Asset(THUMBNAIL_FILE, "Quick-look", None, pystac.MediaType.PNG, ["thumbnail"]))
    _add_model(item, card, provenance)
    write_json(folder / ITEM_FILE, item.to_dict(include_self_link=False, transform_hrefs=False))
    return folder / ITEM_FILE


def _times(inputs: "SceneInputs") -> tuple[datetime, datetime, datetime | None]:
    """Return start, end, and the one moment if there is one."""
    texts = (inputs.acquired_optical, inputs.acquired_sar)
    spans = [_span(text, scene_id=inputs.scene_id) for text in texts if text]
    if not spans:
        return *_NEVER_SAID, None
    moment, until = spans[0]
    return min(span[0] for span in spans), max(span[1] for span in spans), moment if moment == until else None


def _span(text: str, *, scene_id: str) -> tuple[datetime, datetime]:
    """Return first and last second that a time means: a date is all of its day."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CatalogError(f"scene {scene_id}: acquired {text!r}, expected a time like 2024-07-01T10:30:00Z") from error
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment, moment + timedelta(seconds=86_399) if ":" not in text and "T" not in text else moment


def _footprint(grid: GeoBox) -> list[Ring]:
    """Return the grid's outline as [longitude, latitude], counter-clockwise, closed; two across the date line."""
    side = max(grid.shape) * max(abs(grid.transform.a), abs(grid.transform.e))
    outline = grid.extent.to_crs("EPSG:4326", resolution=side / _SIDE_POINTS, wrapdateline=True).geom
    rings = [part.exterior for part in getattr(outline, "geoms", [outline])]
    return [
        [[round(x, _DEGREE_DIGITS), round(y, _DEGREE_DIGITS)] for x, y in ring.coords][:: 1 if ring.is_ccw else -1]
        for ring in rings
    ]


def _geometry(rings: list[Ring]) -> dict[str, Any]:
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}


def _bbox(rings: list[Ring]) -> list[float]:
    """Return west, south, east, north; across the date line west is the larger."""
    spans = [(min(x for x, _ in ring), max(x for x, _ in ring)) for ring in rings]
    latitudes = [y for ring in rings for _, y in ring]
    west = min(span[0] for span in spans if len(rings) == 1 or span[0] > 0)
    east = max(span[1] for span in spans if len(rings) == 1 or span[1] < 0)
    return [west, min(latitudes), east, max(latitudes)]


def _add_layer(item: "pystac.Item", folder: Path, layer: Layer) -> None:
    import pystac
    from pystac.extensions.classification import ClassificationExtension
    from pystac.extensions.eo import EOExtension
    from pystac.extensions.file import FileExtension
    from pystac.extensions.raster import DataType, RasterBand, RasterExtension

    asset = pystac.Asset(layer.file, title=layer.title, media_type=pystac.MediaType.COG, roles=_ROLES[layer.name])
    item.add_asset(layer.name, asset)
    numbers = {"data_type": layer.dtype, "nodata": int(layer.nodata)} | ({"unit": layer.unit} if layer.unit else {})
    asset.extra_fields["bands"] = [{"name": name, **numbers} for name in layer.bands]
    stored = RasterBand.create(
        data_type=DataType(layer.dtype), nodata=int(layer.nodata), unit=layer.unit or None,
        scale=layer.scale if layer.unit else None, offset=0 if layer.unit else None,
    )  # fmt: skip
    RasterExtension.ext(asset, add_if_missing=True).apply(bands=[stored] * len(layer.bands))
    if layer.name in {"restored", "uncertainty"}:
        EOExtension.ext(asset, add_if_missing=True).apply(bands=[_eo_band(name) for name in layer.bands])
    if layer.codes:
        classes = [_class(code, *words, nodata=layer.nodata) for code, words in sorted(layer.codes.items())]
        ClassificationExtension.ext(asset, add_if_missing=True).apply(classes=classes)
    path = folder / layer.file
    checksum = "1220" + sha256_file(path)  # a multihash: SHA-256, 32 bytes
    FileExtension.ext(asset, add_if_missing=True).apply(checksum=checksum, size=path.stat().st_size)


def _eo_band(name: str) -> Any:
    from pystac.extensions.eo import Band

    wavelength_nm, common = band(name).wavelength_nm, COMMON_NAMES.get(name)
    return Band.create(
        name=name,
        common_name="rededge" if common and common.startswith("rededge") else common,  # version 1 knows but one
        center_wavelength=None if wavelength_nm is None else wavelength_nm / 1000,
    )


def _class(code: int, name: str, colour: str, *, nodata: int) -> "Classification":
    from pystac.extensions.classification import Classification

    word = re.sub(r"[^0-9A-Za-z-_]+", "_", name).strip("_") or f"class_{code}"
    return Classification.create(
        value=int(code), name=word, title=name, color_hint=colour[1:], nodata=True if code == nodata else None
    )


def _add_model(item: "pystac.Item", card: "Card", provenance: Mapping[str, object]) -> None:
    import pystac
    from pystac.extensions.mlm import AssetGeneralMLMExtension, Hyperparameters, MLMExtension, TaskType

    from cgm2net.networks import ARCHITECTURES

    model = provenance["model"]
    assert isinstance(model, Mapping)
    name, version, sha256 = (str(model[key]) for key in ("name", "version", "sha256"))
    settings = {**card.config.model_dump(mode="json"), "seed": card.seed, "steps": card.steps}
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=_model_name(name), architecture=ARCHITECTURES[card.config.architecture].title,
        tasks=[TaskType.REGRESSION, TaskType.SEMANTIC_SEGMENTATION],
        framework="PyTorch", total_parameters=card.num_parameters, input=_model_inputs(card),
        output=_model_outputs(card), hyperparameters=Hyperparameters(settings),
    )  # fmt: skip
    weights = pystac.Asset(
        # What a folder holds has no address that is true elsewhere; its hash is.
        href=f"models:/{name}/{version}" if version else f"urn:sha256:{sha256}",
        title=f"Weights and card of {name}" + (f", version {version}" if version else ""),
        media_type="application/octet-stream", roles=["mlm:model", "mlm:weights"],
    )  # fmt: skip
    item.add_asset("model", weights)
    AssetGeneralMLMExtension.ext(weights).apply(artifact_type="safetensors.torch.save_file")


def _model_name(name: str) -> str:
    word = re.sub(r"[^0-9A-Za-z_.\-]+", "-", name).strip("-_.")
    return word if re.fullmatch(r"[A-Za-z].+[A-Za-z0-9]", word) else f"cgm2net-{word or 'model'}"


def _model_inputs(card: "Card") -> list["ModelInput"]:
    from pystac.extensions.mlm import ModelInput

    described = {
        "optical": ("cloudy optical image: reflectance x 10000", card.optical_bands),
        "sar": ("SAR image on the same grid: backscatter, dB", card.sar_bands),
        "cloud": ("probability of cloud or shadow", ()),
    }
    inputs: list[ModelInput] = []
    for name, (text, bands) in described.items():
        limits = [{"type": "min-max", "minimum": band(b).low, "maximum": band(b).high} for b in bands]
        facts = {"name": name, "description": text, "bands": list(bands), "input": _array(max(len(bands), 1))}
        inputs.append(ModelInput(facts | ({"value_scaling": limits} if limits else {})))
    return inputs


def _model_outputs(card: "Card") -> list["ModelOutput"]:
    from pystac.extensions.mlm import ModelOutput, TaskType

    num_bands, num_classes = len(card.optical_bands), len(card.classes)
    described = {
        "clear": ("clear image: reflectance", TaskType.REGRESSION, num_bands),
        "spread": ("expected size of the clear image's error: reflectance", TaskType.REGRESSION, num_bands),
        "classes": ("scores of the classes of asset classes", TaskType.SEMANTIC_SEGMENTATION, num_classes),
    }
    return [
        ModelOutput({"name": name, "description": text, "tasks": [task], "result": _array(channels)})
        for name, (text, task, channels) in described.items()
    ]


def _array(channels: int) -> dict[str, Any]:
    return {
        "shape": [-1, channels, WINDOW_PX, WINDOW_PX],
        "dim_order": ["batch", "channel", "height", "width"],
        "data_type": "float32",
    }
