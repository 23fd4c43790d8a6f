"""The recipe's `[spikes]`: every number of the spike detector and of the rollback policy, with where it comes from.

Numbers marked 4.2 and 4.3 are those of the spikes specification, measured on real curves at a persistence of 100 steps.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from k2.recipe.part import LATER, Count, Fraction, Part, Positive

Shift = Literal["chunk", "schedule"]
Malignant = Literal["malignant.long", "malignant.train", "malignant.creep", "nonfinite", "bad_resume"]

_WINDOWS_PERSISTENCE = 100


class SpikeWindows(Part):
    """How far the detector looks, in steps at a persistence of 100 (4.2). All scale with the recipe's persistence."""

    reference: Count = Field(default=512, description="accepted losses that say what is normal")
    lag: Count = Field(default=128, description="newest accepted losses left out of it, so that a slow rise is not its own reference")
    warmup: Count = Field(default=256, description="accepted losses before the first verdict")
    level: Count = Field(default=64, description="newest losses whose median is the level")
    quiet: Count = Field(default=24, description="quiet steps that end an episode")
    candidate: Count = Field(default=32, description="steps in a row far above the reference that make a pause candidate")
    nonfinite: Count = Field(default=20, description="steps among which so many as `nonfinite_steps` are malignant at once")
    resume: Count = Field(default=20, description="steps after a resume in which it can be a bad one")
    cool_down: Count = Field(default=50, description="steps after a resume in which what passes is no onset")
    boundary: Count = Field(default=50, description="steps around a declared boundary in which a shift of the level is expected")
    train: Count = Field(default=300, description="steps over which benign episodes are counted together")
    rebase: Count = Field(
        default=740, description="age at which the level of an episode is the new normal: its verdict, and a whole reference"
    )


class Spikes(Part):
    """The detector and the rollback policy. Every window scales with `persistence_steps` (100 in K2 §3.1)."""

    mode: Literal["auto", "confirm", "observe"] = "auto"
    persistence_steps: Annotated[int, Field(ge=4)] = Field(default=100, description="elevated for so long is malignant")

    onset_z: Positive = Field(default=8.0, description="deviations above the reference that begin an episode (4.2)")
    quiet_z: Positive = Field(default=4.0, description="deviations that begin the count of quiet steps anew (4.2)")
    level_deviations: Positive = Field(
        default=1.5, description="the level is up when it stands so many deviations above the reference (4.2)"
    )
    level_nats: Positive = Field(default=0.05, description="and so many nats: 0.03 to 0.05 is what a change of the mix does (4.2)")
    level_errors: Positive = Field(
        default=5.0, description="and so many standard errors of a median: in a miniature the level is a few steps"
    )
    relative_floor: Positive = Field(default=0.002, description="least deviation that is believed, as a share of the reference (4.2)")
    candidate_nats: Positive = Field(default=0.5, description="rise that makes a pause candidate long before its verdict (4.2)")
    grad_ratio: Positive = Field(default=8.0, description="a gradient norm below so many medians is no early warning (4.1)")
    small_grad_ratio: Positive = Field(default=1.5, description="up to so many medians a norm is small: clipping did not protect (4.1)")
    small_grad_share: Positive = Field(default=0.1, description="share of small norms in the span that confirms K2's definition (4.1)")
    nonfinite_steps: Count = Field(default=3, description="non-finite steps that are malignant at once (4.1)")
    train_episodes: Count = Field(default=5, description="benign episodes that are malignant together (4.1)")
    replay_relative: Positive = Field(default=1e-3, description="a resume whose first step differs more from its record is bad (4.1)")
    expected_shifts: tuple[Shift, ...] = Field(
        default=("schedule",),
        description="boundaries at which a small shift of the level is no damage. Chunks are of one mix: theirs is their data's fault. "
        "Stages, and with them batches and mixes, begin with a new reference",
    )
    windows: SpikeWindows = SpikeWindows()

    bypass: Literal["skip", "defer"] = Field(default="skip", description="skip the data window, or defer the chunk to the end (K2)")
    margin_steps: Annotated[int, Field(ge=0)] = Field(default=100, description="the target lies at least so far before the onset (PaLM)")
    margin_growth: Annotated[int, Field(ge=1)] = Field(default=2, description="each further rollback in a region goes so many times as far")
    max_skip_steps: Count = Field(default=400, description="steps skipped past the onset at most (PaLM: 200 to 500 batches)")
    skip_budget: Fraction = Field(default=0.005, description="share of a stage's steps that a policy may skip; one window it may always")
    region_steps: Count = Field(default=5000, description="incidents so near, at a persistence of 100, are of one region")
    max_rollbacks_in_region: Annotated[int, Field(ge=0)] = Field(default=3, description="the 104B and Marin: three attempts never helped")
    max_rollbacks: Annotated[int, Field(ge=0)] = Field(default=10, description="of a run; then it stops and asks")
    max_rollbacks_in_a_day: Annotated[int, Field(ge=0)] = Field(
        default=6,
        description="of 24 hours before the incident; more is an epidemic, and somebody must look (4.2)",
        json_schema_extra=LATER,
    )
    max_fruitless_cycles: Count = Field(default=3, description="rollbacks in a row without a new highest accepted step; then it asks")
    asks_about: tuple[Malignant, ...] = Field(default=("malignant.creep",), description="kinds that a policy never answers alone (4.1)")
    third_remedy: Literal["learning_rate", "clip"] = Field(default="learning_rate", description="what the third rollback changes besides")
    third_needs_approval: bool = Field(default=True, description="whether a person must agree to the third")
    learning_rate_remedy: Fraction = Field(default=0.9, description="the rate is multiplied by it (OPT-175B: a tenth less)")
    clip_remedy: Fraction = Field(default=0.5, description="the clip is multiplied by it (OPT-175B: 2.5, then 1.5, then 1.0)")
    remedy_steps: Count = Field(default=1000, description="how long it is changed, in steps at a persistence of 100")
    probe: bool = Field(default=False, description="train the same data again first: a spike that does not come back is the hardware's")
    probe_steps: Count = Field(default=20, description="so far past the onset, at a persistence of 100")
    answer_within_hours: Positive | None = Field(default=None, description="how long a question waits for a human; none: for ever")
    unanswered: Literal["rollback", "continue", "abort"] = Field(default="rollback", description="what is done when that time is over")

    @model_validator(mode="after")
    def _orders(self) -> Self:
        if self.quiet_z > self.onset_z:
            raise ValueError(f"spikes.quiet_z = {self.quiet_z} must not exceed spikes.onset_z = {self.onset_z}: an episode could not end")
        if self.windows.rebase <= _WINDOWS_PERSISTENCE:
            raise ValueError(
                f"spikes.windows.rebase = {self.windows.rebase} must exceed {_WINDOWS_PERSISTENCE}, the persistence that the windows are "
                f"counted against: else no episode lives to its verdict"
            )
        return self

    def scaled(self, steps_at_100: float, least: int = 1) -> int:
        """A length that was measured at a persistence of 100 steps, at this recipe's."""
        return max(least, round(steps_at_100 * self.persistence_steps / _WINDOWS_PERSISTENCE))
