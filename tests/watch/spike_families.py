"""Seeded loss curves: a falling loss with heavy-tailed, slightly correlated noise, and the spike families on top.

Lengths are given at a persistence of 100 steps and scale with it; the noise of a step grows as batches shrink.
"""

from dataclasses import dataclass

import numpy as np

from k2.recipe.spikes import Spikes
from k2.run.records import StepRecord
from k2.watch.event import Event
from k2.watch.spikes import Detector


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


def calm(scale: Scale, rng: np.random.Generator, steps: int | None = None) -> np.ndarray:
    """A clean curve: at the long scale late in a run, at the tiny one a whole quick descent from 7.6 nat."""
    n = steps or scale.length
    fresh = rng.standard_t(6, n) / np.sqrt(1.5) * scale.noise
    noise = fresh + 0.15 * np.concatenate(([0.0], fresh[:-1]))
    t = np.arange(n)
    fall = 4.4 + 3.2 * np.exp(-t / (0.25 * n)) if scale.persistence_steps < 50 else 2.4 + 0.1 * np.exp(-t / n)
    return fall + noise


def _decay(k: np.ndarray, height: float, rise: float, tau: float) -> np.ndarray:
    return np.where(k >= 0, height * np.minimum((k + 1) / rise, 1) * np.exp(-np.maximum(k - rise, 0) / tau), 0.0)


def family(name: str, scale: Scale, seed: int) -> np.ndarray:
    """One curve of the family; its spike begins at index `scale.onset`."""
    rng = np.random.default_rng([seed, *name.encode()])
    loss = calm(scale, rng)
    if name == "nan once":
        loss[scale.onset] = np.nan
    elif name == "nan forever":
        loss[scale.onset :] = np.nan
    elif name == "train":
        loss += _train(scale, rng)
    elif name != "clean":
        loss += _bump(name, scale, rng)
    return loss


def _bump(name: str, scale: Scale, rng: np.random.Generator) -> np.ndarray:
    """One rise, zero before the onset."""
    k = np.arange(scale.length) - scale.onset
    high = rng.uniform(max(0.3, 12 * scale.noise), 4.0)
    bumps = {
        "single": lambda: np.where(k == 0, high, 0.0),
        "short": lambda: _decay(k, high, rng.integers(1, 4), max(scale.steps(rng.uniform(2, 12)), 0.3)),
        "long": lambda: _decay(k, high, rng.integers(1, 6), scale.steps(rng.uniform(150, 800))),
        "diverges": lambda: high * (1 - np.exp(-np.maximum(k + 1, 0) / scale.steps(rng.uniform(3, 40)))),
        # 0.1 to 0.3 nat at the long scale
        "creeps": lambda: np.where(k >= 0, rng.uniform(4.5, 14) * scale.noise * np.minimum(k / scale.steps(rng.uniform(100, 400)), 1), 0.0),
    }
    return bumps[name]()


def _train(scale: Scale, rng: np.random.Generator) -> np.ndarray:
    """Twelve spikes, each begun before the one before it was long over."""
    rise, begin = np.zeros(scale.length), scale.onset
    for _ in range(12):
        height, tau = rng.uniform(max(0.3, 12 * scale.noise), 4.0), max(scale.steps(rng.uniform(3, 10)), 0.5)
        rise += _decay(np.arange(scale.length) - begin, height, 1, tau)
        begin += max(2, round(scale.steps(rng.uniform(12, 30))))
    return rise


def records(loss: np.ndarray, *, attempt: int = 1, first_step: int = 1, grad_norm: np.ndarray | float = 0.4) -> list[StepRecord]:
    norms = np.broadcast_to(np.asarray(grad_norm, dtype=float), loss.shape)
    return [
        StepRecord(attempt, "stage1", first_step + i, float(x), float(g), 1e-3, 64 * (i + 1), 0.1)
        for i, (x, g) in enumerate(zip(loss, norms, strict=True))
    ]


def verdicts(loss: np.ndarray, scale: Scale) -> list[Event]:
    detector = Detector(Spikes(persistence_steps=scale.persistence_steps))
    return [event for record in records(loss) if (event := detector.observe(record)) is not None]
