"""What all sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
WholeShare = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
NoiseScale = Annotated[float, Field(ge=1e-3, allow_inf_nan=False)]
"""Below 0.001 the rounding of float32 log probabilities, divided by the scale, is no longer small beside the noise."""


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, descriptions taken from the docstrings below the settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
        defer_build=True,
    )
