"""What all sections of the settings have: frozen, unknown keys and values out of range refused."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """One section."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
