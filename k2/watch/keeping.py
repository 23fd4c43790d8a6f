"""The detector's state beside a checkpoint: `detector.json`, small, written by the trainer, read by whoever goes on from there.

A detector that goes on from the state says what one says that has seen the whole lineage before it; so where no state
lies beside a checkpoint, or one that this version cannot read, the records are replayed instead.
"""

import json
from pathlib import Path

from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.ledger import Fact
from k2.run.records import accepted_of, branches, replayed_losses
from k2.watch.spikes import Detector, observe
from k2.watch.stage import expected_boundaries, stage_detector

STATE_FILE = "detector.json"


def state_text(detector: Detector) -> str:
    """The state as it stands now, for a checkpoint that is being made."""
    return json.dumps(detector.state()) + "\n"


def detector_at(recipe: Recipe, layout: RunLayout, facts: list[Fact], stage: str, first_step: int, checkpoint: str | None) -> Detector:
    """The detector of the stage as it stood before `first_step`: from the checkpoint that is gone on from, else by replay.

    The first step of a stage has a fresh one: the checkpoint before it is of another stage.
    """
    read = branches(layout, facts, stage)
    kept = _read(recipe, layout.checkpoint(checkpoint), stage) if checkpoint is not None and first_step > 1 else None
    detector = kept or stage_detector(recipe, stage)
    if kept is None:
        for _ in observe(detector, (record for record in accepted_of(read, facts, stage) if record.step < first_step)):
            pass
    detector.expect(replayed_losses(read, facts, stage))
    return detector


def _read(recipe: Recipe, folder: Path, stage: str) -> Detector | None:
    try:
        return Detector.restore(recipe.spikes, json.loads((folder / STATE_FILE).read_bytes()), expected_boundaries(recipe, stage))
    except (OSError, ValueError, KeyError, TypeError):
        return None
