"""A whole scene restored and mapped in one pass, block by block at constant memory."""

import ctypes
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rasterio.windows import Window
from rich.progress import Progress

from cgm2net import sensors
from cgm2net.compute import progress_bar
from cgm2net.predict.answer import Band, answers, stored
from cgm2net.predict.item import write_item
from cgm2net.predict.model import LoadedModel
from cgm2net.predict.prepare import Prepared, prepare
from cgm2net.predict.products import Products
from cgm2net.predict.provenance import key_of, provenance_of, tags_of
from cgm2net.predict.quicklook import draw_quicklook
from cgm2net.predict.scene import Scene, SceneInputs, open_scene
from cgm2net.predict.windows import WINDOW_PX, Blend, Side, phases
from cgm2net.settings import CloudmaskSettings, CoregisterSettings

BLOCK_PX = 2048
"""Columns that are read at once: what memory grows with, in place of the scene's width."""

_M_ARENA_MAX = -8  # of glibc's malloc.h
_STRIP_PX = 64  # rows that are made what is stored at once

_Step = tuple[int, int, int]
"""First and last column of a block, and a row of windows."""

PICTURE_PX = 1024
"""Longest side of the quick-look's panels."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How scenes are prepared and predicted; what results depend on is part of every product's provenance."""

    keep_clear: bool = False
    "Pixels that the mask calls clear keep their measured values."
    batch_size: int | None = None
    "Windows that the network sees at once; by default 1 on the CPU, whose cache holds no more, and 16 on CUDA."
    num_threads: int = 2
    "CPU threads."
    coregister: CoregisterSettings = field(default_factory=CoregisterSettings)
    cloudmask: CloudmaskSettings = field(default_factory=CloudmaskSettings)


@dataclass(frozen=True, kw_only=True)
class SceneReport:
    """What became of one scene."""

    scene_id: str
    folder: Path
    megapixels: float
    cloud_cover: float
    "Share of the measured pixels."
    shift: str
    "What co-registration said: ``moved``, ``aligned`` or ``unsure``."
    seconds: dict[str, float]
    "``prepare``; what the pass over the scene waited for: ``read``, ``network``, ``write``; ``finish``."

    def __str__(self) -> str:
        spent = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        return (
            f"{self.folder}: {self.megapixels:.1f} Mpx, {100 * self.cloud_cover:.0f} % cloud, SAR {self.shift};"
            f" {spent} s"
        )


def predict_scene(inputs: SceneInputs, model: LoadedModel, out_dir: Path, *, settings: PredictSettings) -> SceneReport:
    """Restore and map one scene.

    Args:
        inputs: its files.
        model: see :func:`cgm2net.predict.model.load_model`.
        out_dir: gets the folder ``SCENE_ID``, complete or not at all: ``restored.tif``, ``uncertainty.tif``,
            ``classes.tif``, ``confidence.tif``, ``cloud.tif``, ``origin.tif``, ``item.json``, ``quicklook.png``.
        settings: preparation and pass.

    Raises:
        RasterError: if a file cannot be used, lacks a band, or is of another sensor than the model's.
        MetricError: if the network gives a number that is not finite.
    """
    torch.set_num_threads(settings.num_threads)
    _one_heap()
    clock, card, folder = _Clock(), model.card, out_dir / inputs.scene_id
    out_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scene = stack.enter_context(open_scene(inputs, card))
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out_dir, prefix=".prepare-")))
        progress = stack.enter_context(progress_bar())
        with clock.of("prepare"):
            prepared = prepare(
                scene, aside, coregister=settings.coregister, cloudmask=settings.cloudmask,
                progress=_shown(progress, f"{inputs.scene_id}: clouds, shift"),
            )  # fmt: skip
            provenance = provenance_of(scene, prepared, model, settings, key=key_of(inputs, model, settings))
        products = Products(
            folder, grid=scene.grid, optical_bands=card.optical_bands, classes=card.classes, tags=tags_of(provenance)
        )
        stack.enter_context(products)
        picture = _Picture(scene)
        _pass_over(scene, prepared, model, products, picture, settings=settings, clock=clock, progress=progress)
        with clock.of("finish"):
            made = products.finish()
            _give_back()
            write_item(made, inputs=inputs, grid=scene.grid, card=card, provenance=provenance)
            draw_quicklook(made, cloudy_CHW=picture.pixels_CHW, card=card, title=_title(prepared, inputs, model))
    height, width = scene.grid.shape
    return SceneReport(
        scene_id=inputs.scene_id, folder=folder, megapixels=height * width / 1e6, cloud_cover=prepared.cloud_cover,
        shift=prepared.shift.status, seconds=clock.seconds,
    )  # fmt: skip


def _pass_over(
    scene: Scene, prepared: Prepared, model: LoadedModel, products: Products, picture: "_Picture", *,
    settings: PredictSettings, clock: "_Clock", progress: Progress,
) -> None:  # fmt: skip
    """Walk the scene in blocks of columns, each from top to bottom."""
    height, width = scene.grid.shape
    row_phase, column_phase = phases(scene.grid)
    rows, columns = Side.of(height, row_phase), Side.of(width, column_phase)
    steps = [(first, last, row) for first, last in columns.blocks(BLOCK_PX) for row in range(len(rows.starts))]
    channels = 2 * len(model.card.optical_bands) + len(model.card.classes)
    batch_size = settings.batch_size or (16 if model.device.type == "cuda" else 1)
    bar = progress.add_task(f"{scene.inputs.scene_id}: network", total=len(steps))

    def read(step: _Step) -> Band:
        first, last, row = step
        return _read(scene, prepared, _window_of(rows, columns, row, columns.over(first, last)))

    # On the CPU, whose cores the network keeps busy, reading meanwhile would save no time; and what two threads take
    # and free in turn leaves holes in the heap, which grow with the scene.
    with closing(_bands(read, steps, ahead=model.device.type == "cuda")) as bands:
        for first, last, row in steps:
            with clock.of("read"):
                band = next(bands)
            if row == 0:
                blend = Blend(rows, columns, first=first, last=last, channels=channels)
            with clock.of("network"):
                over = columns.over(first, last)
                places = [(rows.starts[row], columns.starts[column]) for column in over]
                for index, answer_CHW in answers(band, places, model=model, batch_size=batch_size):
                    blend.add(row, over[index], answer_CHW)
                top, final_CHW = blend.finish(row)
            with clock.of("write"):
                for down in range(0, final_CHW.shape[1], _STRIP_PX):
                    strip_CHW = final_CHW[:, down : down + _STRIP_PX]
                    part = band.cut(Window(first, top + down, last - first, strip_CHW.shape[1]))
                    products.write(
                        part.window, stored(strip_CHW, part, card=model.card, keep_clear=settings.keep_clear)
                    )
                    picture.take(part)
                del band, part, final_CHW, strip_CHW  # not to be there beside the next windows and their answers
                _give_back()
            progress.advance(bar)


def _bands(read: Callable[[_Step], Band], steps: Sequence[_Step], *, ahead: bool) -> Generator[Band, None, None]:
    """Yield what is read of each step; ``ahead``: the next one is read meanwhile, by a thread of its own."""
    if not ahead:
        yield from map(read, steps)
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(read, steps[0])
        for step in steps[1:]:
            band, coming = coming.result(), reader.submit(read, step)
            yield band
        yield coming.result()


def _one_heap() -> None:
    """Let threads share one heap: what one thread has freed glibc gives to no other, so that the peak would creep up
    with the number of blocks read."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _give_back() -> None:
    """Return freed memory to the system, which glibc keeps: its many holes are what grows with the scene's size."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _window_of(rows: Side, columns: Side, row: int, over: range) -> Window:
    """Return the part of a row of windows that lies inside the scene."""
    top, bottom = max(rows.starts[row], 0), min(rows.starts[row] + WINDOW_PX, rows.length)
    left = max(columns.starts[over[0]], 0)
    right = min(columns.starts[over[-1]] + WINDOW_PX, columns.length)
    return Window(left, top, right - left, bottom - top)


def _read(scene: Scene, prepared: Prepared, window: Window) -> Band:
    optical, sar = scene.optical(window), scene.sar(window, to_content=prepared.shift.to_content)
    return Band(
        window, optical.pixels_CHW, sar.pixels_CHW, prepared.cloud(window), optical.valid_HW, sar.valid_HW
    )  # fmt: skip


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def _shown(progress: Progress, text: str) -> Callable[[int, int], None]:
    bar = progress.add_task(text, total=None)
    return lambda done, total: progress.update(bar, completed=done, total=total)


class _Picture:
    """The cloudy image small enough for a picture: every n-th pixel, reflectance (C, H, W)."""

    def __init__(self, scene: Scene) -> None:
        height, width = scene.grid.shape
        self._bands = scene.card.optical_bands
        self._step = max(1, -(-max(height, width) // PICTURE_PX))
        small = (len(self._bands), -(-height // self._step), -(-width // self._step))
        self.pixels_CHW = np.zeros(small, np.float32)

    def take(self, band: Band) -> None:
        window, step = band.window, self._step
        above, before = -window.row_off % step, -window.col_off % step
        chosen = sensors.to_unit_range(band.optical_CHW[:, above::step, before::step], self._bands)
        top, left = -(-window.row_off // step), -(-window.col_off // step)
        self.pixels_CHW[:, top : top + chosen.shape[1], left : left + chosen.shape[2]] = chosen


def _title(prepared: Prepared, inputs: SceneInputs, model: LoadedModel) -> str:
    version = f" version {model.version}" if model.version else ""
    cover = f"{100 * prepared.cloud_cover:.0f} % cloud"
    return f"{inputs.scene_id} · {cover} · SAR {prepared.shift.status} · {model.name}{version}"
