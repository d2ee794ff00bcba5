"""Stage outputs that stand for a whole batch of scenes, made of numbers alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cgm2net.catalog import COLUMNS, write_scenes
from cgm2net.data.facts import SPREAD
from cgm2net.files import write_json

CODES = {"0": 600, "1": 300, "5": 100, "255": 50}


def batch(
    folder: Path,
    *,
    num: int = 20,
    seed: int = 0,
    gain: float = 1.0,
    sar_db: float = 0.0,
    cover: float = 0.0,
    codes: Mapping[str, int] | None = None,
    refused: int = 0,
    stage: str = "cloudmask",
) -> Path:
    """Write what the stages would have written of scenes whose brightness varies by a quarter."""
    rng = np.random.default_rng(seed)
    rows, verdicts = [], {}
    for k in range(num + refused):
        level = float(rng.uniform(0.75, 1.25))
        optical = (np.linspace(300, 3000, len(SPREAD)) * level * gain).tolist()
        sar = (np.linspace(-20, -5, len(SPREAD)) + rng.normal() + sar_db).tolist()
        files = {"optical": {"spread": {"B02": optical}}, "sar": {"spread": {"VV": sar}}}
        label = {} if codes is None else {"label": {"counts": dict(codes)}}
        verdicts[f"s{k:02}"] = {"accepted": k < num, "files": {**files, **label}}
        rows.append({
            **dict.fromkeys(COLUMNS, ""), "scene_id": f"s{k:02}", "region": "r", "accepted": k < num,
            "reason": "" if k < num else "no", "dx_px": rng.normal(), "dy_px": 0.0, "shift_rmse_px": 0.3,
            "shift_status": "moved", "cloud_cover": min(1.0, float(rng.uniform(0, 0.5)) + cover),
        })  # fmt: skip
    for name in ("validate", stage):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_scenes(pd.DataFrame(rows), folder / name / "scenes.csv")
    write_json(folder / "validate/verdicts.json", verdicts)
    return folder
