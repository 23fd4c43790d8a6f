"""What policies cost at scale: the table of `k2 goodput simulate`, by Monte Carlo over `watch.simulation`.

Each policy is the recipe with other numbers, and other costs: K2's own way is one of them (chunk checkpoints alone, people
who restart and decide). The inputs are those of the faults specification, 7; how often a rollback helps (0.7) is assumed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from k2.recipe.schema import Recipe
from k2.run.goodput import Cause
from k2.watch.simulation import Costs, Hazards, Simulated, Spike, simulate

_DAY, _HOUR = 86_400.0, 3600.0
_HELPS = 0.7  # each rollback on its own; the report's two helped at once
_LOST: dict[str, tuple[Cause, ...]] = {
    "rework": ("rework_fault",),
    "restart": ("startup", "ckpt_load", "hang"),
    "ckpt": ("ckpt_stall",),
    "spike": ("rework_spike", "human_wait"),
}


@dataclass(frozen=True)
class Policy:
    """One way to run the recipe."""

    name: str
    recipe: Recipe
    costs: Costs
    spikes: int = 2  # K2 §3.1
    verdict_steps: int = 100
    helps: float = _HELPS


@dataclass(frozen=True)
class Price:
    """One policy at one mean time between failures. Shares are of the wall time; days are means."""

    policy: str
    mtbf_hours: float
    goodput: float
    goodput_p5: float
    goodput_p95: float
    wall_days: float
    failures: float
    rollbacks: float
    days_lost: dict[str, float]


@dataclass(frozen=True)
class Assumptions:
    """What is taken from the recipe, or told."""

    step_seconds: float
    saving_seconds: float = 60.0
    startup_seconds: float = 600.0


def step_seconds_of(recipe: Recipe) -> float | None:
    """The recipe's declared days over its steps; None where it declares none."""
    steps = sum(stage.steps for stage in recipe.stages)
    return None if recipe.energy.days is None else recipe.energy.days * _DAY / steps


def policies(recipe: Recipe, assumed: Assumptions) -> list[Policy]:
    """K2's own way, the recipe as it is, and what either would be with one thing changed."""
    longest = max(stage.steps_per_chunk for stage in recipe.stages)
    usual = Costs(assumed.step_seconds, assumed.saving_seconds, assumed.startup_seconds)
    by_hand = replace(usual, startup_seconds=2 * _HOUR, hang_seconds=6 * _HOUR, human_seconds=14 * _DAY)
    people = _with(_saving_every(recipe, longest), mode="confirm", bypass="defer", margin_steps=0)
    persistence = recipe.spikes.persistence_steps
    every, seen = recipe.checkpoints.rescue_every_steps, recipe.spikes.scaled(2000)
    skipping = _with(recipe, bypass="skip")
    many = _with(skipping, max_rollbacks=100, skip_budget=0.05)
    healed = f"this recipe: a checkpoint every {every} steps, spikes healed"
    beside = replace(usual, saving_seconds=5.0)
    return [
        Policy("K2's own: a checkpoint a chunk, restarts and spikes by hand", people, by_hand, verdict_steps=seen, helps=1.0),
        Policy("... restarted by itself", people, replace(usual, human_seconds=14 * _DAY), verdict_steps=seen, helps=1.0),
        Policy(healed, recipe, usual, verdict_steps=persistence),
        Policy("... data skipped, not deferred", skipping, usual, verdict_steps=persistence),
        Policy("... saved beside the steps: 5 s, every 100", _saving_every(recipe, min(100, longest)), beside, verdict_steps=persistence),
        Policy("... 20 spikes as PaLM had, skipped", many, usual, 20, persistence),
        Policy(
            "... 20 spikes, each waits 4 h for a person",
            _with(many, mode="confirm"),
            replace(usual, human_seconds=4 * _HOUR),
            20,
            persistence,
        ),
    ]


def prices(chosen: Sequence[Policy], mtbf_hours: Sequence[float], runs: int, seed: int) -> Iterator[Price]:
    """Every policy at every mean time between failures. The same seed gives the same numbers."""
    for policy in chosen:
        for hours in mtbf_hours:
            yield _price(policy, hours, [_live(policy, hours, np.random.default_rng([seed, number])) for number in range(runs)])


def young_daly_seconds(saving_seconds: float, mtbf_seconds: float) -> float:
    """The interval between checkpoints that wastes least: the square root of 2 C M. The waste is then the root of 2 C / M."""
    return math.sqrt(2 * saving_seconds * mtbf_seconds)


def shown(price: Price) -> dict[str, Any]:
    rounded = {name: round(days, 4) for name, days in price.days_lost.items()}
    return {**vars(price), "days_lost": rounded}


def text(found: Sequence[Price], assumed: Assumptions) -> str:
    """The table, and the Young-Daly intervals below it."""
    hours = list(dict.fromkeys(price.mtbf_hours for price in found))
    middle = hours[len(hours) // 2]
    lines = [f"goodput at a mean time between failures of {', '.join(f'{h:g} h' for h in hours)} (days lost at {middle:g} h)"]
    names = list(dict.fromkeys(price.policy for price in found))
    width = max(len(name) for name in names)
    for name in names:
        own = {price.mtbf_hours: price for price in found if price.policy == name}
        lost = "  ".join(f"{cause} {days:5.1f}" for cause, days in own[middle].days_lost.items())
        lines.append(f"{name:{width}}  " + "  ".join(f"{own[h].goodput:.3f}" for h in hours) + f"   {lost}")
    for hour in hours:
        interval = young_daly_seconds(assumed.saving_seconds, hour * _HOUR)
        steps, waste = interval / assumed.step_seconds, 2 * assumed.saving_seconds / interval
        lines.append(f"Young-Daly at {hour:g} h: a checkpoint every {steps:,.0f} steps ({interval / 60:,.0f} min), waste {waste:.1%}")
    return "\n".join(lines)


def _with(recipe: Recipe, **changed: object) -> Recipe:
    """The recipe with other numbers for its spikes."""
    return recipe.model_copy(update={"spikes": recipe.spikes.model_copy(update=changed)})


def _saving_every(recipe: Recipe, steps: int) -> Recipe:
    return recipe.model_copy(update={"checkpoints": recipe.checkpoints.model_copy(update={"rescue_every_steps": steps})})


def _live(policy: Policy, mtbf_hours: float, rng: np.random.Generator) -> Simulated:
    hazards = Hazards(_draw_spikes(policy, rng), mtbf_hours * _HOUR)
    return simulate(policy.recipe, policy.costs, hazards, rng)


def _draw_spikes(policy: Policy, rng: np.random.Generator) -> tuple[Spike, ...]:
    """Spikes anywhere in the run, each with the number of rollbacks that it outlives."""
    total = sum(stage.steps for stage in policy.recipe.stages)
    spikes = []
    for _ in range(policy.spikes):
        step = int(rng.integers(1, total + 1))
        comebacks = min(3, int(rng.geometric(policy.helps)) - 1)
        for stage in policy.recipe.stages:
            if step <= stage.steps:
                spikes.append(Spike(stage.name, step, policy.verdict_steps, comebacks))
                break
            step -= stage.steps
    return tuple(spikes)


def _price(policy: Policy, mtbf_hours: float, lives: Sequence[Simulated]) -> Price:
    shares = [life.goodput for life in lives]
    return Price(
        policy=policy.name,
        mtbf_hours=mtbf_hours,
        goodput=float(np.mean(shares)),
        goodput_p5=float(np.percentile(shares, 5)),
        goodput_p95=float(np.percentile(shares, 95)),
        wall_days=float(np.mean([life.wall for life in lives])) / _DAY,
        failures=float(np.mean([life.failures for life in lives])),
        rollbacks=float(np.mean([life.rollbacks for life in lives])),
        days_lost={
            name: float(np.mean([sum(life.seconds[cause] for cause in causes) for life in lives])) / _DAY for name, causes in _LOST.items()
        },
    )
