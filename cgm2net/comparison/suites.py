"""Which networks are compared: each suite is a list of changes to the settings of training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cgm2net.comparison.masks import Spoiling
from cgm2net.networks import ARCHITECTURES
from cgm2net.settings import Architecture, TrainSettings

Suite = Literal["baselines", "ablations"]
Budget = Literal["steps", "time"]

REFERENCE = "cgm2net"
"""Name of the variant that every other one is compared with."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a comparison."""

    name: str
    title: str
    changes: Mapping[str, object] = field(default_factory=dict)
    "Settings of ``train`` that differ from those of params.yaml."
    spoiling: Spoiling = "none"
    "What is done to the mask that the network is tested with; the pixels that count as cloudy stay what they are."

    def settings(self, base: TrainSettings) -> TrainSettings:
        """Return the settings that it is trained by."""
        return TrainSettings.model_validate({**base.model_dump(), **self.changes})

    @property
    def restores(self) -> bool:
        """Whether it learns to restore the image."""
        return self.changes.get("restoration_weight") != 0.0

    @property
    def maps(self) -> bool:
        """Whether it learns the classes."""
        return self.changes.get("segmentation_weight") != 0.0


_ONE_TASK: tuple[Architecture, ...] = ("dsen2cr", "uncrtaints", "glfcr")
"""Architectures made for restoration alone; they are also compared without their second head."""

_FULL = Variant(name=REFERENCE, title="CGM2Net")

SUITES: dict[Suite, tuple[Variant, ...]] = {
    "baselines": (
        _FULL,
        *(
            Variant(name=name, title=network.title, changes={"architecture": name})
            for name, network in ARCHITECTURES.items()
            if name != REFERENCE
        ),
        *(
            Variant(
                name=f"{name}-restoration",
                title=f"{ARCHITECTURES[name].title}, restoration alone",
                changes={"architecture": name, "segmentation_weight": 0.0},
            )
            for name in _ONE_TASK
        ),
    ),
    "ablations": (
        _FULL,
        Variant(name="no-cgfr", title="without CGFR", changes={"restoration": False}),
        Variant(name="no-cgsi", title="without CGSI", changes={"interaction": False}),
        Variant(name="no-mbf", title="without MBF", changes={"fusion": False}),
        Variant(name="no-classes-to-image", title="classes not to image", changes={"classes_to_image": False}),
        Variant(name="no-image-to-classes", title="image not to classes", changes={"image_to_classes": False}),
        Variant(name="no-mask", title="without the mask", changes={"cloud_guidance": False}),
        Variant(name="no-sar", title="without SAR", changes={"sar": False}),
        Variant(name="restoration", title="restoration alone", changes={"segmentation_weight": 0.0}),
        Variant(name="segmentation", title="segmentation alone", changes={"restoration_weight": 0.0}),
        Variant(name="hard-mask", title="binary mask", changes={"soft_mask": False}),
        Variant(name="mask-dilated", title="tested with a dilated mask", spoiling="dilated"),
        Variant(name="mask-eroded", title="tested with an eroded mask", spoiling="eroded"),
        Variant(name="mask-dropped", title="tested with a quarter of the mask lost", spoiling="dropped"),
    ),
}
