"""Scenes of no use: refused when they are opened, with the words that put them right."""

from pathlib import Path

import numpy as np
import pytest
from drawn import BANDS, CARD, box, echo, land, write
from odc.geo.geobox import GeoBox

from cgm2net.errors import RasterError
from cgm2net.predict.scene import SceneInputs, files_as_inputs, open_scene


def broken(folder: Path, defect: str) -> tuple[SceneInputs, SceneInputs]:
    """Return a scene with something wrong, and the same with the words that put it right."""
    optical, sar, grid, sar_grid = land(box()), echo(box()), box(), box()
    right: dict[str, object] = {}
    match defect:
        case "linear":
            sar, right = 10 ** (sar / 10), {"linear": True}
        case "reflectance":
            optical, right = (optical / 10_000).astype(np.float32), {"scale": 10_000.0}
        case "offset":
            optical, right = optical + np.uint16(1000) * (optical > 0), {"offset": -1000.0}
        case "order":
            optical, right = optical[[3, 1, 2, 0, 4, 5]], {"optical_bands": ("B08", "B03", "B04", "B02", "B11", "B12")}
        case "elsewhere":
            sar_grid = box(x=9_000.0)
        case "zone":
            sar_grid = GeoBox(box().shape, box().transform, "EPSG:32650")
        case "empty":
            sar = np.full_like(sar, np.nan)
    files = {
        "optical": write(folder / f"{defect} optical.tif", optical, BANDS, grid),
        "sar": write(folder / f"{defect} sar.tif", sar, ("VV", "VH"), sar_grid),
    }
    return files_as_inputs("s", **files), files_as_inputs("s", **files, **right)  # type: ignore[arg-type]


REFUSALS = {
    "linear": r"SAR is not in dB: median 0\.\d+, wanted -35 to 0 .*; or say that its bands are in linear power",
    "reflectance": r"brightest optical or reference values reach 1, .*; or say how, by the bands' scale and offset",
    "offset": r"offset of \+1000 DN suspected, optical: dark end .*; or say so, by the bands' offset: `--offset -1000`",
    "order": r"bands of optical out of order: in \d+% .*; or give the names in the order of the file",
    "elsewhere": r"SAR lies elsewhere: 610x530 px of 10x10, EPSG:32632, .* is one of the coordinate reference systems",
    "zone": r"SAR lies elsewhere: .*EPSG:32650.*, the optical image .*EPSG:32632",
    "empty": "SAR has no measurement wherever looked",
}


@pytest.mark.parametrize("defect", REFUSALS)
def test_what_is_of_no_use_is_refused_and_the_message_says_how_to_mend_it(tmp_path: Path, defect: str) -> None:
    wrong, mended = broken(tmp_path, defect)
    with pytest.raises(RasterError, match=f"scene s: {REFUSALS[defect]}"):
        open_scene(wrong, CARD)
    open_scene(wrong, CARD, checked=False).__exit__(None, None, None)
    if mended != wrong:
        open_scene(mended, CARD).__exit__(None, None, None)
