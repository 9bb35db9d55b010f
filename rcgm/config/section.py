"""What all sections of a configuration share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from rcgm.config.truth_values import refuse_truth_values

__all__ = ["Section"]


class Section(BaseModel):
    """Keys with types and ranges; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_truth_values(cls.model_fields[info.field_name].annotation, value)
        return value
