"""K2's published order of chunks, reached as K2 reached it: two verdicts, two deferrals, nothing else moved (K2 §3.1)."""

import pytest

from k2.data.operations import Ahead, Asker
from k2.data.order import sequence_of
from k2.recipe.load import load_recipe
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import checkpoint_name
from k2.run.ledger import AttemptStarted, ChunkDeferred, Fact, IncidentClosed, IncidentDecided, IncidentOpened
from k2.run.operations import ranges
from k2.watch.event import Event
from k2.watch.policy import answer, decide

RECIPE = load_recipe("k2_65b")
STAGE = RECIPE.stages[0]
EARLY = (*range(32, 38), *range(44, 52), *range(16, 32), *range(38, 44))  # came first: they were ready
PUBLISHED = "0-15, 32-37, 44-51, 16-31, 38-43, 52-159, 161-185, 187-359, 160, 186"  # K2 §0.2 and §0.3: main.py of its released code


def holdings(chunks: int) -> Holdings:
    held = [
        HeldCheckpoint(
            checkpoint_name(n), "chunk", STAGE.name, n * STAGE.steps_per_chunk, n * STAGE.steps_per_chunk * STAGE.tokens_per_step
        )
        for n in range(1, chunks + 1)
    ]
    return Holdings(True, tuple(held), {stage.name: 0 for stage in RECIPE.stages}, False)


def spike(attempt: int, position: int) -> Event:
    """A malignant verdict whose onset lies inside the chunk at that position."""
    onset = position * STAGE.steps_per_chunk + 300
    return Event("malignant.long", STAGE.name, attempt, onset, onset + 99, 0.8, 20.0, 1.9, 0.02, 100)


@pytest.mark.parametrize("by", ["policy", "ada"])
def test_two_deferrals_give_the_published_order(by: str) -> None:
    assert RECIPE.spikes.bypass == "defer"
    facts: list[Fact] = [Ahead(STAGE, sequence_of(STAGE, []), 1).reorder(16, EARLY, Asker("ada", "these were ready first"))]
    for incident, position in enumerate((160, 185), start=1):
        first_step = 1 if incident == 1 else 160 * STAGE.steps_per_chunk + 1
        facts.append(AttemptStarted(attempt=incident, stage=STAGE.name, checkpoint=None, first_step=first_step))
        answers = answer(RECIPE, facts, holdings(position), spike(incident, position))
        if by != "policy" or not any(isinstance(fact, IncidentDecided) for fact in answers):
            opened = [fact for fact in answers if isinstance(fact, IncidentOpened)]
            answers = (*opened, *decide(RECIPE, [*facts, *opened], holdings(position), incident, "rollback", who=by))
        facts += [*answers, IncidentClosed(incident=incident)]
    assert [fact.position for fact in facts if isinstance(fact, ChunkDeferred)] == [160, 185]
    assert [fact.checkpoint for fact in facts if isinstance(fact, IncidentDecided)] == ["ckpt_160", "ckpt_185"]
    assert ranges(sequence_of(STAGE, facts).order) == PUBLISHED
