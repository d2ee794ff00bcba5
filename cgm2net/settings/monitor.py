"""What counts as drift: the section ``monitor`` of params.yaml, which no stage reads."""

from typing import Annotated

from pydantic import Field

from cgm2net.settings.section import Count, Positive, Section


class MonitorSettings(Section):
    """Limits of :mod:`cgm2net.data.drift`."""

    max_psi: Positive = 0.25
    "A larger population stability index is drift,"
    max_chance: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    "unless more random deals of the same scenes than this share lie as far apart."
    min_scenes: Count = 6
    "That must have a feature on either side for it to be judged."
