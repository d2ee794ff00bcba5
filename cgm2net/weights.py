"""Weights and their card, saved together and loaded strictly; nothing is unpickled."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cgm2net.errors import ModelError
from cgm2net.files import write_aside
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import Network, NetworkConfig
from cgm2net.networks import build

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "card.json"


class Card(BaseModel):
    """What must be known to use the weights, and where they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: NetworkConfig
    optical_bands: tuple[str, ...]
    "Band names in the order of the network's input; scaled by cgm2net.sensors.to_unit_range."
    sar_bands: tuple[str, ...]
    classes: tuple[str, ...]
    "Name of each class code."
    gsd_m: float
    "Pixel size that the network was trained at [m]."
    data_hash: str
    "SHA-256 over the tiles that it was trained on."
    seed: int
    steps: int
    num_parameters: int
    library_version: str
    calibration: Calibration
    "Measured on the validation tiles."


def save(folder: Path, network: Network, card: Card) -> None:
    """Write ``weights.safetensors`` and ``card.json``, the card last."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(folder / WEIGHTS_FILE) as aside:
        save_file(state, aside)
    with write_aside(folder / CARD_FILE) as aside:
        aside.write_text(card.model_dump_json(indent=2) + "\n")


def load(folder: Path) -> tuple[Network, Card]:
    """Read a network in evaluation mode, on the CPU, and its card.

    Raises:
        ModelError: if a file is absent or damaged, the card has unknown or missing keys, or a weight does not fit.
    """
    for name in (CARD_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: not there; a model is a folder with {CARD_FILE} and {WEIGHTS_FILE}")
    try:
        card = Card.model_validate_json((folder / CARD_FILE).read_text())
        network = build(card.config)
        network.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)
    except ValidationError as error:
        raise ModelError(f"{folder / CARD_FILE}: not a card of this version: {error}") from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{folder / WEIGHTS_FILE}: does not fit its card: {error}") from error
    return network.eval(), card
