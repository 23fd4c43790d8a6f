"""Which checkpoints are kept and which may go, and the going: to the trash first, and out of it later. Torch-free.

Every chunk end is kept. Between them the newest few are, whatever a rollback could still want, what an incident went back to,
and what somebody pinned. What goes is renamed into the trash, where whoever has it open reads on, and is deleted at the next round;
a pin that came in between brings it back.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from k2.recipe.schema import Recipe, Stage
from k2.run.durable import sync_folder, write_durably
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import RunLayout
from k2.run.ledger import Fact, IncidentDecided
from k2.run.plan import open_incident
from k2.run.receipt import now
from k2.run.saving import due_checkpoint


@dataclass(frozen=True)
class Retention:
    """The names of the checkpoints that are kept, and of those that may go."""

    kept: tuple[str, ...]
    removable: tuple[str, ...]


def retain(recipe: Recipe, facts: list[Fact], holdings: Holdings, pins: frozenset[str]) -> Retention:
    """What the recipe's policy keeps. While an incident is open nothing goes: it may be gone back to."""
    passing = [c for c in holdings.checkpoints if c.kind in ("rescue", "stop")]
    evidence = {fact.checkpoint for fact in facts if isinstance(fact, IncidentDecided)}
    newest = {c.name for c in sorted(passing, key=lambda c: _run_step(recipe, c))[-recipe.checkpoints.keep_last :]}
    reach = max((_run_step(recipe, c) for c in holdings.checkpoints), default=0)

    def may_go(checkpoint: HeldCheckpoint) -> bool:
        too_old = reach - _run_step(recipe, checkpoint) > _wanted_steps(recipe, recipe.stage(checkpoint.stage))
        return too_old and checkpoint.name not in newest | evidence | pins

    removable = () if open_incident(facts) is not None else tuple(c.name for c in passing if may_go(c))
    return Retention(tuple(c.name for c in holdings.checkpoints if c.name not in removable), removable)


def most_passing(recipe: Recipe) -> int:
    """How many rescue checkpoints lie on the disk at the most, pins and incidents aside."""
    return max(_most_passing_in(recipe, stage) for stage in recipe.stages)


def pin(layout: RunLayout, name: str) -> None:
    """Keep the checkpoint, whatever the policy says. One that lies in the trash comes back. `ValueError` when there is none."""
    if not layout.checkpoint(name).is_dir() and not (layout.trash / name).is_dir():
        raise ValueError(
            f"run {layout.name!r} holds no checkpoint {name}: it cannot be pinned; `k2 status {layout.name}` names those there are"
        )
    write_durably(layout.pins / f"{name}.json", json.dumps({"checkpoint": name, "at": now()}).encode())
    _bring_back(layout, layout.trash / name)


def unpin(layout: RunLayout, name: str) -> None:
    """Leave the checkpoint to the policy again."""
    (layout.pins / f"{name}.json").unlink(missing_ok=True)


def pinned(layout: RunLayout) -> frozenset[str]:
    """The names of the pinned checkpoints."""
    return frozenset(path.stem for path in layout.pins.glob("*.json"))


def move_to_trash(layout: RunLayout, names: tuple[str, ...]) -> None:
    """The first half of removing: out of everybody's sight, and still whole. Hold the run's lease."""
    for name in names:
        layout.trash.mkdir(parents=True, exist_ok=True)
        if (layout.trash / name).exists():
            shutil.rmtree(layout.trash / name)
        layout.checkpoint(name).rename(layout.trash / name)
        sync_folder(layout.trash)
        sync_folder(layout.checkpoints)


def empty_trash(layout: RunLayout) -> tuple[str, ...]:
    """The second half: what still lies in the trash is deleted, but what was pinned meanwhile comes back. The names deleted."""
    kept, removed = pinned(layout), []
    for path in sorted(layout.trash.iterdir()) if layout.trash.is_dir() else ():
        if path.name in kept:
            _bring_back(layout, path)
        else:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return tuple(removed)


def _bring_back(layout: RunLayout, path: Path) -> None:
    if path.is_dir() and not layout.checkpoint(path.name).exists():
        path.rename(layout.checkpoint(path.name))
        sync_folder(layout.checkpoints)


def _most_passing_in(recipe: Recipe, stage: Stage) -> int:
    """What is kept at the stage's end, and twice what a chunk adds: what comes until the next round, and the round before in the trash."""
    due = {step: due_checkpoint(recipe, stage, step, trained=True) for step in range(1, stage.steps + 1)}
    made = tuple(HeldCheckpoint(one.name, one.kind, stage.name, step, 0) for step, one in due.items() if one is not None)
    kept = set(retain(recipe, [], Holdings(True, made, {}, False), frozenset()).kept)
    passing = [checkpoint for checkpoint in made if checkpoint.kind == "rescue"]
    of_a_chunk = -(-stage.steps_per_chunk // recipe.checkpoints.rescue_every_steps)
    return min(len(passing), sum(checkpoint.name in kept for checkpoint in passing) + 2 * of_a_chunk)


def _wanted_steps(recipe: Recipe, stage: Stage) -> int:
    """How far behind the newest a rollback may want one: two chunks and twice the detector's reach (persistence and margin)."""
    return 2 * stage.steps_per_chunk + 2 * (recipe.spikes.persistence_steps + recipe.spikes.margin_steps)


def _run_step(recipe: Recipe, checkpoint: HeldCheckpoint) -> int:
    """The checkpoint's step, counted on through the stages."""
    return sum(stage.steps for stage in recipe.stages_before(checkpoint.stage)) + checkpoint.step
