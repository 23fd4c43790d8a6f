"""The proof of a resume: the same steps trained unbroken, and with a stop and a resume in the middle, compared number by number.

What enters is a recipe and where to break it, for a change of world too; what leaves is how far losses and final state differ.
Both are trained by the processes that train every run.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.run import Say
from k2.launch.local import Trainer
from k2.recipe.load import RecipeError
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.recipe.world import in_world, world_of
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout
from k2.run.lease import hold
from k2.run.ledger import AttemptStarted, append_facts, read_facts
from k2.run.opening import create_or_open
from k2.run.plan import Train
from k2.run.records import accepted_records

# In another world sums are rounded in another order; AdamW's first updates, near the sign of the gradient, magnify it.
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}


@dataclass(frozen=True)
class Plan:
    """What is trained: steps 1 to `steps` of the first stage, broken after step `at`, by world `first` and then by world `then`."""

    at: int
    steps: int
    first: str
    then: str


@dataclass(frozen=True)
class Proof:
    """How the broken run compares with the unbroken one. Differences are the largest, in nats and in units of a weight."""

    recipe: str
    stage: str
    world: str
    then: str
    at: int
    steps: int
    equal: bool  # every loss, gradient norm, weight and moment, to the bit
    first_difference_step: int | None
    max_abs_difference: float  # of the losses
    max_abs_weight_difference: float
    tolerance: float  # of the losses; 0 where the world stays
    holds: bool


def plan_proof(recipe: Recipe, at: int | None, steps: int | None, world: str | None, then: str | None) -> Plan:
    """The proof that was asked for, with what was not said filled in. `RecipeError` when there are no such steps, or is no such world."""
    stage = recipe.stages[0]
    count = min(stage.steps, 12) if steps is None else steps
    if not 2 <= count <= stage.steps:
        raise RecipeError(
            f"--steps {count}: a break needs a step before it and one behind it, and {stage.name} has {stage.steps} steps; "
            f"give --steps from 2 to {stage.steps}"
        )
    middle = count // 2 if at is None else at
    if not 1 <= middle < count:
        raise RecipeError(
            f"--at {middle} --steps {count}: the break must lie behind one of these steps and before another; give --at from 1 to "
            f"{count - 1}" + (f", or more of the {stage.steps} steps of {stage.name}" if count < stage.steps else "")
        )
    first = world or world_of(recipe)
    for name in (first, then):
        in_world(recipe, name)
    return Plan(middle, count, first, then or first)


def prove_resume(recipe: Recipe, place: Place, plan: Plan, folder: Path, say: Say) -> Proof:
    """Train both ways under a new folder in `folder`, compare, and remove it again."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".verify-resume-", dir=folder) as root:
        unbroken, broken = RunLayout(Path(root) / "unbroken"), RunLayout(Path(root) / "broken")
        _prepare(recipe, place, unbroken, say)
        shutil.copytree(
            unbroken.root, broken.root, copy_function=os.link, ignore=shutil.ignore_patterns("ledger.jsonl", "LOCK", "lease.json")
        )
        create_or_open(broken, recipe, place)
        _train(recipe, _in(place, plan.first), unbroken, None, plan.steps, say)
        middle = _train(recipe, _in(place, plan.first), broken, None, plan.at, say)
        _train(recipe, _in(place, plan.then), broken, middle, plan.steps, say)
        return _compare(recipe, plan, unbroken, broken)


def _in(place: Place, world: str) -> Place:
    """On this host alone."""
    return place.model_copy(update={"world": world, "nodes": 1, "rendezvous": None})


def _prepare(recipe: Recipe, place: Place, layout: RunLayout, say: Say) -> None:
    from k2.data.build import build

    with hold(layout):
        create_or_open(layout, recipe, place)
        build(recipe, place, layout, say)


def _train(recipe: Recipe, place: Place, layout: RunLayout, start: str | None, last_step: int, say: Say) -> str:
    """One segment to `last_step`; the name of the checkpoint that it ends with."""
    stage = recipe.stages[0].name
    held = {c.name: c.step for c in held_checkpoints(recipe, layout)}
    attempt = 1 + sum(isinstance(fact, AttemptStarted) for fact in read_facts(layout.ledger))
    action = Train(stage, attempt, start, held[start] + 1 if start else 1, last_step)
    create_or_open(layout, recipe, place)
    say(f"{layout.name}: steps {action.first_step} to {last_step} in the world {place.world}")
    with hold(layout) as lease:
        append_facts(layout.ledger, AttemptStarted(attempt=attempt, stage=stage, checkpoint=start, first_step=action.first_step))
        with _ended(Trainer.start(recipe, place, layout, action, lease)) as code:
            if code != 0:
                raise RuntimeError(f"the trainer ended with {code}:\n{layout.trainer_log(attempt).read_text('utf-8', 'replace')[-3000:]}")
    return next(c.name for c in held_checkpoints(recipe, layout) if c.step == last_step)


@contextmanager
def _ended(trainer: Trainer) -> Iterator[int]:
    """The exit code of a trainer that nobody stops; it does not outlive an interrupt."""
    with trainer:
        while (code := trainer.wait(1.0)) is None:
            pass
        yield code


def _compare(recipe: Recipe, plan: Plan, unbroken: RunLayout, broken: RunLayout) -> Proof:
    from k2.checkpoint.compare import compare_states

    stage = recipe.stages[0].name
    ours, theirs = ({r.step: r for r in accepted_records(layout, read_facts(layout.ledger), stage)} for layout in (unbroken, broken))
    assert list(ours) == list(theirs) == list(range(1, plan.steps + 1))
    differing = [step for step, r in ours.items() if (r.loss, r.grad_norm) != (theirs[step].loss, theirs[step].grad_norm)]
    last = [next(c.name for c in held_checkpoints(recipe, layout) if c.step == plan.steps) for layout in (unbroken, broken)]
    state = compare_states(unbroken.checkpoint(last[0]), broken.checkpoint(last[1]))
    loss_difference = max(abs(ours[step].loss - theirs[step].loss) for step in ours)
    equal = not differing and state.equal
    tolerance = 0.0 if plan.first == plan.then else LOSS_TOLERANCE[recipe.layout.precision]
    return Proof(
        recipe=recipe.name,
        stage=stage,
        world=plan.first,
        then=plan.then,
        at=plan.at,
        steps=plan.steps,
        equal=equal,
        first_difference_step=differing[0] if differing else None if state.equal else plan.steps,
        max_abs_difference=loss_difference,
        max_abs_weight_difference=state.max_abs_weight_difference,
        tolerance=tolerance,
        holds=equal if tolerance == 0 else loss_difference <= tolerance,
    )
