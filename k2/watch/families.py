"""Seeded loss curves: a falling loss with heavy-tailed, slightly correlated noise, and the spike families on top.

Lengths are given at a persistence of 100 steps and scale with it; the noise of a step grows as batches shrink. The
families are those of the spikes specification, 3.2; the norms of `gradient_norms` follow BLOOM-176B's chronicles.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from k2.run.records import StepRecord

Curve = NDArray[np.float64]

CALM = ("clean", "data shift")
BENIGN = ("single", "short", "nan once")
MALIGNANT = ("long", "diverges", "creeps", "train", "nan forever", "bad resume")


@dataclass(frozen=True)
class Scale:
    """`noise` is the standard deviation of a step's loss: 0.022 nat at 4 M tokens a step, 0.12 in a miniature."""

    persistence_steps: int
    noise: float
    onset: int
    length: int

    def steps(self, at_100: float) -> float:
        return at_100 * self.persistence_steps / 100


LONG = Scale(100, 0.022, onset=800, length=1400)
TINY = Scale(12, 0.12, onset=290, length=480)


def calm(scale: Scale, rng: np.random.Generator, steps: int | None = None) -> Curve:
    """A clean curve: at the long scale late in a run, at the tiny one a whole quick descent from 7.6 nat."""
    n = steps or scale.length
    fresh = rng.standard_t(6, n) / np.sqrt(1.5) * scale.noise
    noise = fresh + 0.15 * np.concatenate(([0.0], fresh[:-1]))
    t = np.arange(n)
    fall: Curve = 4.4 + 3.2 * np.exp(-t / (0.25 * n)) if scale.persistence_steps < 50 else 2.4 + 0.1 * np.exp(-t / n)
    curve: Curve = fall + noise
    return curve


def _decay(k: Curve, height: float, rise: float, tau: float) -> Curve:
    """A quick rise from k = 0 on, and an exponential fall."""
    return np.where(k >= 0, height * np.minimum((k + 1) / rise, 1) * np.exp(-np.maximum(k - rise, 0) / tau), 0.0)


def family(name: str, scale: Scale, seed: int, base: Curve | None = None) -> Curve:
    """One curve of the family; its spike begins at index `scale.onset`. `base` is a calm curve to put it on, as long as the scale's."""
    ground, rise = parts(name, scale, seed, base)
    return ground + rise


def parts(name: str, scale: Scale, seed: int, base: Curve | None = None) -> tuple[Curve, Curve]:
    """The calm curve and what the family adds to it; a loss that is not finite is NaN there."""
    rng = np.random.default_rng([seed, *name.encode()])
    drawn = calm(scale, rng)
    rise = np.zeros(scale.length)
    if name == "nan once":
        rise[scale.onset] = np.nan
    elif name == "nan forever":
        rise[scale.onset :] = np.nan
    elif name == "train":
        rise = _train(scale, rng)
    elif name != "clean":
        rise = _bump(name, scale, rng)
    return drawn if base is None else base, rise


def _bump(name: str, scale: Scale, rng: np.random.Generator) -> Curve:
    """One rise, zero before the onset."""
    k = np.arange(scale.length, dtype=np.float64) - scale.onset
    high = rng.uniform(max(0.3, 12 * scale.noise), 4.0)
    bumps: dict[str, Callable[[], Curve]] = {
        "single": lambda: np.where(k == 0, high, 0.0),
        "short": lambda: _decay(k, high, float(rng.integers(1, 4)), max(scale.steps(rng.uniform(2, 12)), 0.3)),
        "long": lambda: _decay(k, high, float(rng.integers(1, 6)), scale.steps(rng.uniform(150, 800))),
        "diverges": lambda: high * (1 - np.exp(-np.maximum(k + 1, 0) / scale.steps(rng.uniform(3, 40)))),
        # 0.1 to 0.3 nat at the long scale
        "creeps": lambda: np.where(k >= 0, rng.uniform(4.5, 14) * scale.noise * np.minimum(k / scale.steps(rng.uniform(100, 400)), 1), 0.0),
        # another mix: 0.03 to 0.05 nat for good, at the long scale
        "data shift": lambda: np.where(k >= 0, rng.uniform(1.4, 2.3) * scale.noise, 0.0),
        # the first step after a resume is normal, the second 8.7 nat too high: the optimizer's state was lost
        "bad resume": lambda: np.where(k >= 1, 8.7 / (1 + np.maximum(k - 1, 0) / 40) ** 0.8, 0.0),
    }
    return bumps[name]()


def _train(scale: Scale, rng: np.random.Generator) -> Curve:
    """Twelve spikes, each begun before the one before it was long over."""
    rise, begin = np.zeros(scale.length), scale.onset
    for _ in range(12):
        height, tau = rng.uniform(max(0.3, 12 * scale.noise), 4.0), max(scale.steps(rng.uniform(3, 10)), 0.5)
        rise += _decay(np.arange(scale.length, dtype=np.float64) - begin, height, 1, tau)
        begin += max(2, round(scale.steps(rng.uniform(12, 30))))
    return rise


def gradient_norms(rng: np.random.Generator, rise: Curve) -> Curve:
    """Norms before clipping: calm ones, and where the loss will have risen three steps later, far higher; among them are small ones."""
    norms = rng.lognormal(np.log(0.24), 0.08, len(rise))
    ahead = np.nan_to_num(np.concatenate((rise[3:], np.repeat(rise[-1:], 3))))
    return norms * np.where(rng.random(len(rise)) < 0.3, 1.0, 1 + 20 * ahead)


def records(loss: Curve, *, attempt: int = 1, first_step: int = 1, grad_norm: Curve | float = 0.4) -> list[StepRecord]:
    """The curve as step records."""
    norms = np.broadcast_to(np.asarray(grad_norm, dtype=float), loss.shape)
    return [
        StepRecord(attempt, "stage1", first_step + i, float(x), float(g), 1e-3, 64 * (i + 1), 0.1)
        for i, (x, g) in enumerate(zip(loss, norms, strict=True))
    ]


def resumed_records(loss: Curve, at: int, grad_norm: Curve | float = 0.4) -> list[StepRecord]:
    """The curve as step records, with a resume before index `at`."""
    norms = np.broadcast_to(np.asarray(grad_norm, dtype=float), loss.shape)
    return records(loss[:at], grad_norm=norms[:at]) + records(loss[at:], attempt=2, first_step=at + 1, grad_norm=norms[at:])
