"""A scene's files opened on the grid that the model works on; read window by window, never whole."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.data.bands import BandFile, FileBands, Role, grid_of
from cgm2net.data.stored import Placed
from cgm2net.errors import RasterError
from cgm2net.grids import describe_grid, model_grid, smooth_resampling
from cgm2net.predict.checks import require_use
from cgm2net.raster import Raster, Warped
from cgm2net.streams import small_cache

if TYPE_CHECKING:
    from cgm2net.weights import Card


__all__ = ["BandFile", "Scene", "SceneInputs", "files_as_inputs", "open_scene"]

_IN_PLACE = Affine.identity()
_KEPT_BLOCKS = 12  # of 512 px, resampled: two rows of them over the columns that are worked on at once


@dataclass(frozen=True, kw_only=True)
class SceneInputs:
    """One optical and one SAR acquisition of a place, and where their bands are."""

    scene_id: str
    optical: tuple[BandFile, ...]
    sar: tuple[BandFile, ...]
    cloud: Path | str | None = None
    "Delivered mask: 0-1, or a Sentinel-2 scene classification."
    acquired_optical: str = ""
    "RFC 3339, or empty."
    acquired_sar: str = ""
    region: str = ""
    source: str = ""


def files_as_inputs(
    scene_id: str,
    *,
    optical: Path,
    sar: Path,
    cloud: Path | None = None,
    optical_bands: Sequence[str] = (),
    sar_bands: Sequence[str] = (),
    scale: float = 1.0,
    offset: float = 0.0,
    linear: bool = False,
    acquired_optical: str = "",
    acquired_sar: str = "",
    region: str = "",
    source: str = "",
) -> SceneInputs:
    """Return the inputs of a scene that lies in two files of several bands, and perhaps a mask.

    Args:
        scene_id: names the scene.
        optical: file with named bands.
        sar: the same.
        cloud: mask or classification.
        optical_bands: names in the order of the file, for one without band descriptions.
        sar_bands: the same.
        scale: optical values x scale + offset are DN.
        offset: see ``scale``.
        linear: SAR is in linear power.
        acquired_optical: RFC 3339, or empty.
        acquired_sar: the same.
        region: see the catalogue.
        source: the same.

    Raises:
        RasterError: if a file cannot be opened, or its bands have no names.
    """
    return SceneInputs(
        scene_id=scene_id,
        optical=tuple(replace(band, scale=scale, offset=offset) for band in _named(optical, optical_bands)),
        sar=tuple(replace(band, linear=linear) for band in _named(sar, sar_bands)),
        cloud=cloud, acquired_optical=acquired_optical, acquired_sar=acquired_sar, region=region, source=source,
    )  # fmt: skip


def _named(path: Path, given: Sequence[str]) -> list[BandFile]:
    try:
        with rasterio.open(path) as file:
            found = file.descriptions
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error
    names = tuple(given) or found
    if len(names) != len(found):
        raise RasterError(f"{path}: has {len(found)} bands, {len(names)} names were given: {', '.join(names)}")
    if not all(names):
        raise RasterError(f"{path}: bands have no names; give the names of all {len(found)} in their order")
    return [BandFile(name=name, path=str(path), index=index) for index, name in enumerate(names, start=1)]


class Scene:
    """A scene on the model's grid, read in windows that may reach beyond it; a context manager.

    What a window costs depends on its size alone; what it holds, to the bit, on the scene alone.
    """

    def __init__(self, inputs: SceneInputs, card: "Card") -> None:
        self.inputs = inputs
        self.card = card
        with ExitStack() as opening:
            self._optical = self._open("optical", inputs.optical, card.optical_bands, opening)
            self._sar = self._open("sar", inputs.sar, card.sar_bands, opening)
            mask = () if inputs.cloud is None else (BandFile(name="cloud", path=str(inputs.cloud), index=1),)
            self._cloud = self._open("cloud", mask, [file.name for file in mask], opening)
            self.grid: GeoBox = model_grid([source.grid for source in self._optical], gsd_m=card.gsd_m)
            self._optical_on = [self._laid(source, fill=sensors.OPTICAL_NODATA) for source in self._optical]
            self._sar_on, self._sar_placed = self._placed(_IN_PLACE), _IN_PLACE
            self._cloud_on = [self._laid(source, fill=_unknown(source)) for source in self._cloud]
            self.facts: dict[str, object] = self._facts()
            self._files = opening.pop_all()

    @property
    def sar_grids(self) -> tuple[GeoBox, ...]:
        """Grids of the SAR files."""
        return tuple(source.grid for source in self._sar)

    @property
    def classified(self) -> bool:
        """Whether the delivered mask is a scene classification."""
        return any(source.classified for source in self._cloud)

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def optical(self, window: Window) -> Raster:
        """Return DN as uint16, the card's bands in its order; 0 and invalid where nothing was measured."""
        parts = [source.part(window) for source in self._optical_on]
        image = _joined(parts, self.card.optical_bands)
        return replace(image, pixels_CHW=np.where(image.valid_HW, image.pixels_CHW, 0))

    def sar(self, window: Window, *, to_content: Affine = _IN_PLACE) -> Raster:
        """Return dB as float32, the card's bands in its order; NaN and invalid where nothing was measured.

        Args:
            window: in pixels of the grid.
            to_content: takes a place (column, row) to where its content lies; it is moved back, in one interpolation.
        """
        if to_content != self._sar_placed:
            self._sar_on, self._sar_placed = self._placed(to_content), to_content
        image = _joined([source.part(window) for source in self._sar_on], self.card.sar_bands)
        return replace(image, pixels_CHW=np.where(image.valid_HW, image.pixels_CHW, np.float32(np.nan)))

    def delivered(self, window: Window) -> Raster | None:
        """Return the delivered cloud mask by nearest neighbour; None where the scene has none."""
        return self._cloud_on[0].part(window) if self._cloud_on else None

    def with_optical(self, bands: Sequence[str]) -> "FurtherBands":
        """Return the scene with those of these bands that its files hold, beside the card's: for a cloud method."""
        held = {file.name for file in self.inputs.optical} - set(self.card.optical_bands)
        further = tuple(name for name in dict.fromkeys(bands) if name in held)
        sources = self._open("optical", self.inputs.optical, further, self._files)
        laid = tuple(self._laid(source, fill=sensors.OPTICAL_NODATA) for source in sources)
        return FurtherBands(scene=self, further=laid, bands=further)

    def _laid(self, source: FileBands, *, fill: float) -> Warped:
        how = Resampling.nearest if source.role == "cloud" else smooth_resampling(source.grid, self.grid)
        return Warped(source, self.grid, resampling=how, fill=fill, num_kept=_KEPT_BLOCKS)

    def _placed(self, to_content: Affine) -> list[Placed]:
        return [
            Placed(source, self.grid, fill=sensors.SAR_NODATA, to_content=to_content, num_kept=_KEPT_BLOCKS)
            for source in self._sar
        ]

    def _open(
        self, role: Role, files: Sequence[BandFile], wanted: Sequence[str], opening: ExitStack
    ) -> list[FileBands]:
        """Open the files of the wanted bands, those on one grid together."""
        by_name = {file.name: file for file in files}
        missing = [name for name in wanted if name not in by_name]
        if len(by_name) < len(files):
            raise RasterError(f"scene {self.inputs.scene_id}: {role} has two bands of one name; give each its own")
        if missing:
            raise RasterError(
                f"scene {self.inputs.scene_id}: {role} has bands {', '.join(by_name)}, lacks {', '.join(missing)};"
                f" the model needs {', '.join(wanted)}"
            )
        groups: dict[GeoBox, list[BandFile]] = {}
        opened: dict[str, rasterio.DatasetReader] = {}
        for file in (by_name[name] for name in wanted):
            if file.path not in opened:
                opened[file.path] = opening.enter_context(_opened(file.path))
            groups.setdefault(grid_of(opened[file.path]), []).append(file)
        return [FileBands(role, group, opened) for group in groups.values()]

    def _facts(self) -> dict[str, object]:
        """Return what was done to bring the files onto the grid."""
        used = {"optical": self._optical, "sar": self._sar, "cloud": self._cloud}
        names = {"optical": self.inputs.optical, "sar": self.inputs.sar}
        resampled = {
            " ".join(source.bands): "nearest" if role == "cloud" else smooth_resampling(source.grid, self.grid).name
            for role, sources in used.items() for source in sources if source.grid != self.grid
        }  # fmt: skip
        return {
            "grid": describe_grid(self.grid),
            "sources": {" ".join(s.bands): describe_grid(s.grid) for group in used.values() for s in group},
            "resampled": resampled,
            "bands_ignored": {
                role: [file.name for file in files if not any(file.name in s.bands for s in used[role])]
                for role, files in names.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class FurtherBands:
    """A :class:`cgm2net.data.cloud_methods.CloudImage`: a scene with more optical bands than the model takes."""

    scene: Scene
    further: tuple[Warped, ...]
    bands: tuple[str, ...]
    "Of the further ones, in their order."

    @property
    def grid(self) -> GeoBox:
        """The scene's."""
        return self.scene.grid

    def optical(self, window: Window) -> Raster:
        """Return the model's bands, then the further ones; measured where the model's are."""
        image = self.scene.optical(window)
        if not self.further:
            return image
        more = _joined([source.part(window) for source in self.further], self.bands)
        pixels_CHW = np.concatenate([image.pixels_CHW, more.pixels_CHW])
        return replace(image, pixels_CHW=pixels_CHW, bands=(*image.bands, *self.bands))

    def delivered(self, window: Window) -> Raster | None:
        """Return the scene's delivered mask."""
        return self.scene.delivered(window)


def open_scene(inputs: SceneInputs, card: "Card", *, checked: bool = True) -> Scene:
    """Open a scene for a model.

    Args:
        inputs: its files.
        card: of the model.
        checked: look at a few places whether the files hold what they should.

    Raises:
        RasterError: if a file cannot be opened, lacks a band of the model, or is of no use.
    """
    with ExitStack() as stack, small_cache():
        scene = stack.enter_context(Scene(inputs, card))
        if checked:
            require_use(scene, sar_grids=scene.sar_grids)
        stack.pop_all()
    return scene


def _unknown(source: FileBands) -> float:
    """Return what stands where a mask does not reach."""
    return float("nan") if source.dtype.kind == "f" else sensors.LABEL_IGNORE


def _opened(path: str) -> rasterio.DatasetReader:
    try:
        return rasterio.open(path)
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error


def _joined(parts: Sequence[Raster], bands: Sequence[str]) -> Raster:
    """Return the bands of several rasters on one grid, valid where all are."""
    if len(parts) == 1:
        return parts[0].select(bands)
    together = Raster(
        pixels_CHW=np.concatenate([part.pixels_CHW for part in parts]),
        valid_HW=np.logical_and.reduce([part.valid_HW for part in parts]),
        bands=tuple(name for part in parts for name in part.bands), grid=parts[0].grid,
    )  # fmt: skip
    return together.select(bands)
