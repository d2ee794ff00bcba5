"""Sections of training, evaluation and promotion."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cgm2net.settings.section import Count, Positive, Section, Share

Architecture = Literal["cgm2net", "unet", "dsen2cr", "uncrtaints", "glfcr", "siamese_mamba"]
OWN_PARTS = ("restoration", "interaction", "fusion", "classes_to_image", "image_to_classes")
"""Switches of parts that only cgm2net has."""


class TrainSettings(Section):
    """The network, its losses and the optimiser."""

    architecture: Architecture = "cgm2net"
    "The network, or one that it is compared with: see cgm2net/baselines."
    network_size: Literal["tiny", "small", "base"] = "tiny"
    "The one dial for size; the network's other dimensions follow from it. (DVC leaves keys named `size` out of its"
    " run cache's hash.)"
    steps: Count = 400
    batch_size: Count = 16
    crop_px: Annotated[int, Field(ge=16)] = 64
    "Side of the random crops that are trained on; at most the tile's size."
    learning_rate: Positive = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    gradient_clip: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: Count = 1
    "Processes: CUDA devices where there are any, CPU processes otherwise."
    num_passes: Count = 1
    "Passes that a batch is cut into where it does not fit into memory; their gradients make one step."
    recompute: bool = False
    "On: activations of the large parts are computed twice instead of kept; a third more time, much less memory."
    num_threads: Count = 2
    "CPU threads; part of the result's bytes, so it is fixed here and not by the machine."
    num_loader_workers: Annotated[int, Field(ge=0)] = 0
    "Processes that prepare crops; 0 is best for a set that fits into memory on the CPU."
    log_every_steps: Count = 20
    checkpoint_every_steps: Count = 40
    "A multiple of log_every_steps."
    validate_every_steps: Count = 200
    "A multiple of log_every_steps."
    task_weights: Literal["fixed", "learned"] = "fixed"
    restoration_weight: Annotated[float, Field(ge=0.0)] = 1.0
    segmentation_weight: Annotated[float, Field(ge=0.0)] = 0.5
    cloud_weight: Annotated[float, Field(ge=0.0)] = 4.0
    "Extra weight of a fully clouded pixel in the image loss."
    restoration: bool = True
    "CGFR on; it and the next four switch parts of cgm2net, for ablation."
    interaction: bool = True
    fusion: bool = True
    classes_to_image: bool = True
    image_to_classes: bool = True
    cloud_guidance: bool = True
    "Off: the network sees an all-clear mask, and no part of it leans on one."
    soft_mask: bool = True
    "Off: the network sees the mask cut at 0.5 into 0 and 1."
    sar: bool = True
    "Off: the network sees an even SAR image."

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.crop_px % 8:
            raise ValueError(f"crop_px {self.crop_px} must be a multiple of 8, the network's total stride")
        for name in ("checkpoint_every_steps", "validate_every_steps"):
            if getattr(self, name) % self.log_every_steps:
                raise ValueError(f"{name} must be a multiple of log_every_steps {self.log_every_steps}")
        if self.architecture != "cgm2net" and (off := [part for part in OWN_PARTS if not getattr(self, part)]):
            raise ValueError(f"{', '.join(off)}: parts of cgm2net, which {self.architecture} has not; leave them on")
        if self.batch_size % (self.devices * self.num_passes):
            raise ValueError(
                f"batch_size {self.batch_size} must divide into devices {self.devices} x num_passes {self.num_passes}"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        if self.restoration_weight + self.segmentation_weight == 0.0:
            raise ValueError("restoration_weight and segmentation_weight are both 0: nothing to learn; raise one")
        return self


class EvaluateSettings(Section):
    """Metrics on the test regions."""

    batch_size: Count = 8
    "Tiles that the network sees at once."
    cloud_threshold: Share = 0.5
    "A pixel with a higher cloud probability counts as cloudy."
    cover_bins: Annotated[tuple[Share, ...], Field(min_length=2)] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    "Edges of the bins of cloud cover, a tile's share of cloudy pixels; each bin holds its lower edge, the last both."
    num_pictures: Annotated[int, Field(ge=1, le=50)] = 3
    "Best, median and worst tiles drawn, this many of each."
    num_threads: Count = 2
    "CPU threads; part of the result's last bits, so it is fixed here and not by the machine."

    @model_validator(mode="after")
    def _rising(self) -> "EvaluateSettings":
        if list(self.cover_bins) != sorted(set(self.cover_bins)):
            raise ValueError(f"cover_bins {self.cover_bins} must rise")
        if (self.cover_bins[0], self.cover_bins[-1]) != (0.0, 1.0):
            raise ValueError(f"cover_bins {self.cover_bins} must start at 0 and end at 1, or tiles would fall outside")
        return self


MetricName = Annotated[
    str, Field(pattern=r"^(all|clear|cloudy)/(psnr|ssim|mae|rmse|sam|cc|oa|accuracy|f1|miou|ece|iou_.+)$")
]
Difference = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class RegisterSettings(Section):
    """When a challenger becomes the champion. Of mae, rmse, sam and ece less is better: their gain is a fall."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = "cgm2net"
    min_gain: Annotated[dict[MetricName, Difference], Field(min_length=1)] = Field(
        default_factory=lambda: {"cloudy/psnr": 0.0, "cloudy/miou": 0.0}
    )
    "Metric -> least gain over the champion."
    min_chance: Share = 0.9
    "In this share of test sets, resampled by regions, every gain of min_gain must be reached; 0: whatever they say."
    max_loss: dict[MetricName, Difference] = Field(default_factory=lambda: {"clear/psnr": 0.5, "clear/miou": 0.02})
    "Metric -> largest loss against the champion that is still allowed."
    max_class_loss: Difference | None = 0.1
    "Largest loss of any class's IoU that is still allowed, on clear and on cloudy pixels; None: none is asked."
