"""An episode: what is counted from the onset of a rise until it grows quiet or is judged, and the windows it is held against."""

import math
from dataclasses import dataclass
from typing import Self

from k2.recipe.spikes import Spikes
from k2.watch.reference import Normal

_SMALL_GRAD_RATIO = 1.5  # K2 §3.1: "small" norms inside the span, so that clipping did not protect


@dataclass(frozen=True)
class Windows:
    """All windows in steps, scaled from those measured at a persistence of 100 steps."""

    reference: int
    lag: int
    warmup: int
    level: int
    quiet: int
    nonfinite: int
    resume: int
    train: int
    rebase: int

    @classmethod
    def of(cls, persistence_steps: int) -> Self:
        """The least values keep a median a median in a miniature."""

        def scaled(steps_at_100: int, least: int) -> int:
            return max(least, round(steps_at_100 * persistence_steps / 100))

        return cls(
            reference=scaled(512, 48),
            lag=scaled(128, 12),
            warmup=scaled(256, 24),
            level=scaled(64, 12),
            quiet=scaled(24, 4),
            nonfinite=scaled(20, 8),
            resume=scaled(20, 3),
            train=scaled(300, 12),
            rebase=scaled(4000, 160),
        )


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
        self.loud = self.loud or reading.is_loud(spikes.onset_z)
        if reading.rise > self.rise:
            self.rise, self.z = reading.rise, reading.z
        if reading.log_norm is not None and norms is not None:
            self.norms += 1
            self.small_norms += reading.log_norm <= norms.centre + math.log(_SMALL_GRAD_RATIO)

    @property
    def span(self) -> tuple[int, int]:
        """First and last step that were not quiet."""
        return self.onset_step, max(self.onset_step, self.last_loud_step)

    @property
    def small_grad_fraction(self) -> float | None:
        return self.small_norms / self.norms if self.norms else None
