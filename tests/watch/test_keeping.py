"""The detector that goes on from a checkpoint's state says what one says that has seen everything."""

from collections.abc import Callable

import numpy as np
import pytest
from spike_families import TINY, calm, records

from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, Fact
from k2.run.records import branches, replayed_losses
from k2.watch.keeping import STATE_FILE, detector_at, state_text
from k2.watch.spikes import Detector, observe

FACTS: list[Fact] = [
    AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1),
    AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_007", first_step=281),
]


@pytest.fixture
def trained(recipe: Recipe, layout: RunLayout, commit: Callable[..., None]) -> Detector:
    """Attempt 1 is at step 300, in the middle of a spike; `ckpt_007` holds what its trainer's detector knew at step 280."""
    commit("ckpt_007", "chunk", 280)
    loss = calm(TINY, np.random.default_rng(0))[:300]
    loss[275:] += 2.0
    path = layout.metrics("stage1", 1)
    path.parent.mkdir(parents=True)
    path.write_text("".join(record.line() for record in records(loss)))
    detector = Detector(recipe.spikes)
    list(observe(detector, records(loss)[:280]))
    (layout.checkpoint("ckpt_007") / STATE_FILE).write_text(state_text(detector))
    return detector


@pytest.mark.parametrize("damage", [None, "missing", "{}", "no json"])
def test_the_state_and_a_replay_are_the_same(recipe: Recipe, layout: RunLayout, trained: Detector, damage: str | None) -> None:
    file = layout.checkpoint("ckpt_007") / STATE_FILE
    if damage == "missing":
        file.unlink()
    elif damage is not None:
        file.write_text(damage)
    trained.expect(replayed_losses(branches(layout, FACTS, "stage1"), FACTS, "stage1"))  # attempt 2 trains steps 281 to 300 again
    assert detector_at(recipe, layout, FACTS, "stage1", 281, "ckpt_007").state() == trained.state()


def test_the_state_is_small(layout: RunLayout, trained: Detector) -> None:
    assert (layout.checkpoint("ckpt_007") / STATE_FILE).stat().st_size < 65_536


def test_another_stage_begins_afresh(recipe: Recipe, layout: RunLayout, trained: Detector) -> None:
    assert detector_at(recipe, layout, FACTS, "stage2", 1, "ckpt_007").state() == Detector(recipe.spikes).state()
