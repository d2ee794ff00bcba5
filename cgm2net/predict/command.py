"""What the commands ``predict``, ``explain`` and ``export`` do with their options."""

from collections.abc import Sequence
from pathlib import Path

from cgm2net.errors import SettingsError
from cgm2net.predict.batch import BatchReport, is_done, predict_scenes
from cgm2net.predict.export import ExportReport, Format
from cgm2net.predict.export import export as write_forms
from cgm2net.predict.inputs import from_catalog, from_folder, from_items
from cgm2net.predict.model import LoadedModel, load_model, model_folder
from cgm2net.predict.run import PredictSettings, SceneReport, predict_scene
from cgm2net.predict.scene import SceneInputs, files_as_inputs
from cgm2net.settings import CloudmaskSettings, CoregisterSettings, read_settings


def predict(
    *,
    optical: Path | None,
    sar: Path | None,
    cloud: Path | None,
    catalog_file: Path | None,
    folder: Path | None,
    items: tuple[str, str] | None,
    uri: str,
    out: Path,
    scene_id: str | None,
    optical_bands: str | None,
    sar_bands: str | None,
    offset: float,
    keep_clear: bool,
    params: Path | None,
    cloud_method: str | None,
    batch_size: int | None,
) -> BatchReport | SceneReport | str:
    """Predict one scene of files or items, or all of a catalogue or folder; see ``python -m cgm2net predict -h``.

    Raises:
        SettingsError: if not exactly one source is named.
    """
    ways = {"--optical and --sar": optical or sar, "--catalog": catalog_file, "--folder": folder, "--items": items}
    if len(given := [name for name, value in ways.items() if value]) != 1:
        raise SettingsError(f"{' and '.join(given) or 'nothing'} given; name one of {', '.join(ways)}")
    settings = _settings(params, cloud_method, keep_clear=keep_clear, batch_size=batch_size)
    rows = from_catalog(catalog_file) if catalog_file else from_folder(folder) if folder else None
    model = load_model(uri)
    if rows is not None:
        return predict_scenes(rows, model, out, settings=settings)
    if items:
        card = model.card
        inputs = from_items(*items, optical_bands=card.optical_bands, sar_bands=card.sar_bands)
    elif optical is None or sar is None:
        raise SettingsError(f"--{'optical' if sar else 'sar'} is missing; a scene needs both images")
    else:
        inputs = files_as_inputs(
            scene_id or optical.stem, optical=optical, sar=sar, cloud=cloud, optical_bands=_names(optical_bands),
            sar_bands=_names(sar_bands), offset=offset,
        )  # fmt: skip
    return _one(inputs, model, out, settings=settings)


def _one(inputs: SceneInputs, model: LoadedModel, out: Path, *, settings: PredictSettings) -> SceneReport | str:
    if is_done(inputs, model, out, settings=settings):
        return f"{out / inputs.scene_id}: there already, of the same files, model, settings and code"
    return predict_scene(inputs, model, out, settings=settings)


def explain(
    scene: str | None, *, uri: str, tiles: Path, out: Path, optical: Path | None, sar: Path | None, cloud: Path | None
) -> str:
    """Draw what a model did with a tile, or with a window of a scene; see ``python -m cgm2net explain -h``.

    Raises:
        SettingsError: if not either a tile or two files are named.
        DataError: if there is no such tile or scene.
        ModelError: if the model has nothing to explain, or does not fit the tiles.
    """
    from cgm2net.evaluation.evaluate import require_fit
    from cgm2net.evaluation.explain import explain_tile, find_tile
    from cgm2net.predict.cutout import cut_out

    if scene is not None and not (optical or sar):
        dataset, index = find_tile(tiles, scene)
        model = load_model(uri)
        require_fit(model.card, dataset, model=uri, tiles_dir=tiles)
        picture, numbers = explain_tile(model.network, dataset, index, out)
    elif scene is None and optical and sar:
        model, settings = load_model(uri), PredictSettings()
        inputs = files_as_inputs(optical.stem, optical=optical, sar=sar, cloud=cloud)
        window = cut_out(inputs, model.card, coregister=settings.coregister, cloudmask=settings.cloudmask)
        picture, numbers = explain_tile(model.network, window, 0, out)
    else:
        raise SettingsError("name a tile or scene, or its files by --optical and --sar")
    return f"{picture}; numbers in {numbers.name}"


def export(uri: str, out: Path, *, formats: Sequence[Format]) -> ExportReport:
    """Write a model in other forms; see ``python -m cgm2net export -h``."""
    return write_forms(model_folder(uri), out, formats=formats)


def _settings(
    params: Path | None, cloud_method: str | None, *, keep_clear: bool, batch_size: int | None
) -> PredictSettings:
    coregister, cloudmask = CoregisterSettings(), CloudmaskSettings()
    if params is not None:
        read = read_settings(params)
        coregister, cloudmask = read.coregister, read.cloudmask
    if cloud_method is not None:
        cloudmask = CloudmaskSettings.model_validate({**cloudmask.model_dump(), "method": cloud_method})
    return PredictSettings(
        keep_clear=keep_clear, batch_size=batch_size, coregister=coregister, cloudmask=cloudmask
    )  # fmt: skip


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()
