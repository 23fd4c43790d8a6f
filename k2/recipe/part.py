"""What every piece of a recipe is made of: frozen, no unknown fields, and the kinds of numbers it may hold."""

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.fields import FieldInfo

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Count = Annotated[int, Field(ge=1, le=10**15)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


LATER: dict[str, JsonValue] = {"later": True}  # `json_schema_extra` of every field that is added once runs exist; it must have a default


class Part(BaseModel):
    """A frozen piece of a recipe. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_later_default(field: FieldInfo, part: BaseModel, name: str) -> bool:
    """Whether the field came later, and has the value that every run before it had."""
    return field.json_schema_extra == LATER and getattr(part, name) == field.get_default(call_default_factory=True)


def divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """`ValueError` when it does not: with both numbers and the next that fits."""
    if value % divisor:
        near = math.ceil(value / divisor) * divisor
        raise ValueError(f"{name} = {value} is not a multiple of {divisor_name} = {divisor}; the next that is: {near}")


def no_repeats(where: str, names: list[str]) -> None:
    """`ValueError` that says which names stand more than once."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where} names {', '.join(twice)} more than once; each may stand once")
