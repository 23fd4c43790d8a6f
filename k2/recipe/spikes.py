"""The recipe's `[spikes]`: the numbers of the spike detector and of the rollback policy."""

from typing import Annotated, Literal

from pydantic import Field

from k2.recipe.part import Count, Part, Positive


class Spikes(Part):
    """The detector and the rollback policy. Every window scales with `persistence_steps` (100 in K2 §3.1)."""

    mode: Literal["auto", "confirm", "observe"] = "auto"
    persistence_steps: Annotated[int, Field(ge=4)] = Field(default=100, description="elevated for so long is malignant")
    onset_z: Positive = 8.0
    quiet_z: Positive = 4.0
    level_deviations: Positive = 1.5
    level_nats: Positive = 0.05
    bypass: Literal["skip", "defer"] = Field(default="skip", description="skip the data window, or defer the chunk to the end (K2)")
    margin_steps: Annotated[int, Field(ge=0)] = Field(default=100, description="the target lies at least so many steps before the onset")
    max_skip_steps: Count = 400
    max_rollbacks: Annotated[int, Field(ge=0)] = Field(default=10, description="of a run; then it stops and asks")
    answer_within_hours: Positive | None = Field(default=None, description="how long a question waits for a human; none: for ever")
    unanswered: Literal["rollback", "continue", "abort"] = Field(default="rollback", description="what is done when that time is over")
