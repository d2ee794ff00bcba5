"""What a training needs to go on after an interruption, written aside and renamed."""

from pathlib import Path
from typing import Any

import torch

from cgm2net.errors import ModelError
from cgm2net.files import write_aside


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, text and nestings of them."""
    with write_aside(path) as aside:
        torch.save(state, aside)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or None where there is none.

    Only tensors and plain values are read; anything that would run code is refused by torch.

    Raises:
        ModelError: if the file is damaged; deleting it begins the training anew.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{path}: not a readable checkpoint ({error}); delete it to begin anew") from error
    return state
