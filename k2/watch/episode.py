"""An episode: what is counted from the onset of a rise until it grows quiet or is judged, and the windows it is held against."""

import math
from dataclasses import dataclass
from typing import Self

from k2.recipe.spikes import Spikes
from k2.watch.reference import Normal

_LEAST = {  # keep a median a median, and a canary two steps, in a miniature
    "reference": 48, "lag": 12, "warmup": 24, "level": 12, "quiet": 4, "candidate": 4, "nonfinite": 8, "resume": 3, "cool_down": 2,
    "boundary": 2, "train": 12, "rebase": 88,
}  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """The recipe's windows (`SpikeWindows`), in steps of this recipe."""

    reference: int
    lag: int
    warmup: int
    level: int
    quiet: int
    candidate: int
    nonfinite: int
    resume: int
    cool_down: int
    boundary: int
    train: int
    rebase: int

    @classmethod
    def of(cls, spikes: Spikes) -> Self:
        return cls(**{name: spikes.scaled(getattr(spikes.windows, name), least) for name, least in _LEAST.items()})


@dataclass(frozen=True)
class Reading:
    """One record against the reference. `loss` is None when it, or the gradient norm, is not finite."""

    step: int
    loss: float | None
    rise: float
    z: float
    log_norm: float | None

    def is_loud(self, onset_z: float) -> bool:
        return self.loss is None or self.z > onset_z


@dataclass
class Episode:
    """An open episode. `judged` once its malignant verdict is out."""

    onset_step: int
    age: int
    loud: bool = False  # a z above the onset threshold, or a non-finite number
    judged: bool = False
    quiet: int = 0  # grows with steps inside the band, shrinks with those above it, and ends with a high z
    high: int = 0  # steps in a row far above the reference
    last_loud_step: int = 0
    rise: float = 0.0
    z: float = 0.0
    norms: int = 0
    small_norms: int = 0

    def add(self, reading: Reading, spikes: Spikes, band: float, norms: Normal | None) -> None:
        """Count one more step. `band` is what a quiet loss may lie above the reference, `norms` the calm logarithms of the norm."""
        self.age += 1
        if reading.is_loud(spikes.quiet_z):
            self.quiet = 0
            self.last_loud_step = reading.step
        else:
            self.quiet = self.quiet + 1 if reading.rise < band else max(0, self.quiet - 1)
        self.high = self.high + 1 if reading.loss is None or reading.rise > spikes.candidate_nats else 0
        self.loud = self.loud or reading.is_loud(spikes.onset_z)
        if reading.rise > self.rise:
            self.rise, self.z = reading.rise, reading.z
        if reading.log_norm is not None and norms is not None:
            self.norms += 1
            self.small_norms += reading.log_norm <= norms.centre + math.log(spikes.small_grad_ratio)

    @property
    def span(self) -> tuple[int, int]:
        """First and last step that were not quiet."""
        return self.onset_step, max(self.onset_step, self.last_loud_step)

    @property
    def small_grad_fraction(self) -> float | None:
        return self.small_norms / self.norms if self.norms else None
