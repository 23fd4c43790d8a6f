"""Whether the simulator tells what a real run cost: one finished run with an incident against the same run on paper.

    python benchmarks/goodput_agreement.py RUN_DIRECTORY...

The simulator is fed what single things cost in the run on average (a step, what lies between two, a save, the end of an attempt, a
restart, the steps until a trainer has stopped); how often each happens, where it goes back to, what it loses and skips, and so the
totals are its own, by the policy's code. Compared is the first stage, from its first launch to its end; one line a cause, and the
greatest difference in points. The run must have nothing but spikes: when a crash strikes is no matter of policy.
"""

import argparse
import sys
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from k2.recipe.load import load_recipe
from k2.recipe.schema import Recipe
from k2.run.goodput import booked_seconds
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact, IncidentOpened, RunCreated, read_facts
from k2.run.records import Branches, StepRecord, all_branches
from k2.run.saving import due_checkpoint
from k2.watch.simulation import Costs, Hazards, Spike, simulate

TOGETHER = {"ordinary steps and what lies between them": ("productive", "other"), "starting": ("startup", "ckpt_load")}
LIMIT_POINTS = 2.0
ALONE = ("rework_spike", "rework_fault", "ckpt_stall", "human_wait", "hang")


def seconds_of(fact: Fact) -> float:
    return datetime.fromisoformat(fact.at).timestamp()


def measured(recipe: Recipe, facts: list[Fact], branches: Branches) -> tuple[Costs, tuple[Spike, ...]]:
    """What things cost in the run, one by one, and its spikes."""
    stage = recipe.stages[0]
    started = [fact for fact in facts if isinstance(fact, AttemptStarted)]
    ended = {fact.attempt: fact for fact in facts if isinstance(fact, AttemptEnded)}
    if crashed := [fact.attempt for fact in started if not branches.get(fact.attempt) or ended[fact.attempt].outcome == "crashed"]:
        sys.exit(f"attempt {crashed[0]} crashed: a run that is compared must have nothing but spikes")
    pairs = [pair for branch in branches.values() for pair in pairwise(branch)]
    gaps = [(b.at - b.seconds - a.at, due_checkpoint(recipe, stage, a.step, trained=True) is not None) for a, b in pairs]
    between = fmean(gap for gap, saved in gaps if not saved)
    save = fmean(gap for gap, saved in gaps if saved)
    ends = [(branches[a.attempt][-1].at, seconds_of(ended[a.attempt]), ended[a.attempt].saved_at) for a in started]
    opened = [fact for fact in facts if isinstance(fact, IncidentOpened)]
    spikes = tuple(Spike(fact.stage, fact.onset_step, fact.verdict_step - fact.onset_step + 1) for fact in opened)
    costs = Costs(
        step_seconds=fmean(record.seconds for branch in branches.values() for record in branch) + between,
        saving_seconds=save - between,
        startup_seconds=fmean([_startup(facts, a, branches[a.attempt]) for a in started[1:]] or [0.0]),
        first_startup_seconds=_startup(facts, started[0], branches[started[0].attempt]),
        reaction_steps=round(fmean([branches[fact.attempt][-1].step - fact.verdict_step for fact in opened] or [0])),
        ending_seconds=fmean((saved or end) - last for last, end, saved in ends),
        leaving_seconds=fmean(end - (saved or end) for _, end, saved in ends),
    )
    return costs, spikes


def _startup(facts: list[Fact], started: AttemptStarted, records: list[StepRecord]) -> float:
    """From the end of the attempt before (the run's own start-up has none) to the first step."""
    before = [fact for fact in facts[: facts.index(started)] if isinstance(fact, AttemptEnded)]
    begun = seconds_of(before[-1]) if before else seconds_of(started)
    return records[0].at - records[0].seconds - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    worst = [compare(RunLayout(run)) for run in runs]
    print(f"{len(runs)} runs: {fmean(worst):.2f} points on average, {max(worst):.2f} at most")
    return 0 if max(worst) <= LIMIT_POINTS else 1


def compare(layout: RunLayout) -> float:
    """Print the run beside its simulation; the greatest difference in points."""
    print(f"{layout.root}")
    recipe = load_recipe(str(layout.recipe))
    recipe = recipe.model_copy(update={"stages": recipe.stages[:1]})
    stage = recipe.stages[0].name
    facts = _until_the_stage_ended(read_facts(layout.ledger), stage)
    branches = all_branches(layout, facts, recipe)
    costs, spikes = measured(recipe, facts, branches[stage])
    real = booked_seconds(facts, recipe, branches)
    paper = {str(cause): spent for cause, spent in simulate(recipe, costs, Hazards(spikes), np.random.default_rng(0)).seconds.items()}
    return _show(real, paper)


def _until_the_stage_ended(facts: list[Fact], stage: str) -> list[Fact]:
    """The stage's own facts, from its first launch: the run is taken to begin there."""
    own = {fact.attempt for fact in facts if isinstance(fact, AttemptStarted) and fact.stage == stage}
    first = next(i for i, fact in enumerate(facts) if isinstance(fact, AttemptStarted))
    last = max(i for i, fact in enumerate(facts) if isinstance(fact, AttemptEnded) and fact.attempt in own)
    created = next(fact for fact in facts if isinstance(fact, RunCreated))
    return [created.model_copy(update={"at": facts[first].at}), *facts[first : last + 1]]


def _show(real: dict[str, float], paper: dict[str, float]) -> float:
    groups = TOGETHER | {cause: (cause,) for cause in ALONE}
    walls = sum(real.values()), sum(paper.values())
    print(f"{'':44s} {'run':>10s} {'paper':>10s}   points of the wall")
    worst = 0.0
    for name, causes in groups.items():
        a, b = (sum(seconds.get(cause, 0.0) for cause in causes) for seconds in (real, paper))
        points = 100 * (b / walls[1] - a / walls[0])
        worst = max(worst, abs(points))
        if a or b:
            print(f"{name:44s} {a:9.2f}s {b:9.2f}s   {points:+.2f}")
    print(f"{'wall':44s} {walls[0]:9.2f}s {walls[1]:9.2f}s   {walls[1] / walls[0] - 1:+.2%}")
    print(f"greatest difference: {worst:.2f} points\n")
    return worst


if __name__ == "__main__":
    sys.exit(main())
