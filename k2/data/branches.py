"""The branches of a stage: which attempt trained which steps, in which sequence, and which of them still count.

Enters a run's facts and the last record of each attempt; leaves one `Branch` an attempt. An attempt trains one step after
the other in the sequence that the ledger gave when it was launched; the next attempt ends its branch where it goes on
from. So a rollback leaves both branches readable, whatever was done to the order afterwards.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass

from k2.data.order import Sequence, sequence_of
from k2.recipe.schema import Recipe, Stage
from k2.run.layout import RunLayout, checkpoint_name
from k2.run.ledger import AttemptStarted, Fact
from k2.run.receipt import find_receipt
from k2.run.records import last_record


@dataclass(frozen=True)
class Branch:
    """What one attempt trained: `first_step` to `last_step` of `sequence`, less what that skips. `stands_until` is the last that counts.

    An attempt that trained nothing has a `last_step` before its first; one of which nothing counts, a `stands_until` there.
    """

    attempt: int
    checkpoint: str | None
    first_step: int
    last_step: int
    stands_until: int
    sequence: Sequence

    def trained(self, step: int) -> bool:
        """Whether the attempt trained the step, counted or not."""
        return self.first_step <= step <= self.last_step and not self.sequence.is_skipped(step)

    def stands(self, step: int) -> bool:
        """Whether the attempt trained the step and it still counts."""
        return step <= self.stands_until and self.trained(step)


@dataclass(frozen=True)
class Lineage:
    """The accepted lineage of a stage: each step at most once, by the last attempt that began at or before it."""

    branches: tuple[Branch, ...]
    now: Sequence
    until: int

    def branch_of(self, step: int) -> Branch | None:
        """The branch by which the step counts; none when it was not trained, was given up, or is skipped by now."""
        if step > self.until or self.now.is_skipped(step):
            return None
        return next((branch for branch in reversed(self.branches) if branch.stands(step)), None)


def branches_of(layout: RunLayout, facts: Several[Fact], stage: Stage) -> tuple[Branch, ...]:
    """The stage's branches in order."""
    return tuple(_branches(layout, facts, stage))


def lineage_of(layout: RunLayout, facts: Several[Fact], stage: Stage, until: int | None = None) -> Lineage:
    """The stage's accepted lineage, or what of it a checkpoint at step `until` has seen."""
    return Lineage(branches_of(layout, facts, stage), sequence_of(stage, facts), stage.steps if until is None else until)


def single_branch(layout: RunLayout, facts: Several[Fact], stage: Stage, attempt: int) -> Lineage | None:
    """One attempt's own steps as a lineage, those that were given up too. None when the attempt is of another stage."""
    for branch in branches_of(layout, facts, stage):
        if branch.attempt == attempt:
            whole = Branch(attempt, branch.checkpoint, branch.first_step, branch.last_step, branch.last_step, branch.sequence)
            return Lineage((whole,), branch.sequence, stage.steps)
    return None


def seen_until(recipe: Recipe, layout: RunLayout, checkpoint: str) -> dict[str, int]:
    """The last step of each stage that the checkpoint has seen, 0 where none. `ValueError` for a name that the run cannot have."""
    stage, step = _place_of(recipe, layout, checkpoint)
    before = {one.name for one in recipe.stages_before(stage)}
    return {one.name: one.steps if one.name in before else step if one.name == stage else 0 for one in recipe.stages}


def _branches(layout: RunLayout, facts: Several[Fact], stage: Stage) -> Iterator[Branch]:
    started = [(place, fact) for place, fact in enumerate(facts) if isinstance(fact, AttemptStarted) and fact.stage == stage.name]
    for number, (place, attempt) in enumerate(started):
        last = last_record(layout.metrics(stage.name, attempt.attempt))
        last_step = attempt.first_step - 1 if last is None else last.step
        later = [following.first_step - 1 for _, following in started[number + 1 :]]
        yield Branch(
            attempt=attempt.attempt,
            checkpoint=attempt.checkpoint,
            first_step=attempt.first_step,
            last_step=last_step,
            stands_until=max(attempt.first_step - 1, min([last_step, *later])),
            sequence=sequence_of(stage, facts[:place]),
        )


def _place_of(recipe: Recipe, layout: RunLayout, checkpoint: str) -> tuple[str, int]:
    """The stage and step of a checkpoint: by its receipt, or where retention removed it, by its name."""
    receipt = find_receipt(layout.checkpoint(checkpoint))
    if receipt is not None:
        return receipt.facts["stage"], receipt.facts["step"]
    for stage in recipe.stages:
        first = recipe.first_checkpoint_number(stage.name)
        for number in range(1, stage.chunks + 1):
            if checkpoint == checkpoint_name(first + number):
                return stage.name, number * stage.steps_per_chunk
    last = checkpoint_name(sum(stage.chunks for stage in recipe.stages))
    raise ValueError(f"{checkpoint!r} is no checkpoint of {layout.root}: give one that it holds, or one of {checkpoint_name(1)} to {last}")
