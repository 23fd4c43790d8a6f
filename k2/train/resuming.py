"""Taking up a checkpoint: verified, fit for the recipe, loaded, and held against what was saved before a step is trained.

A state that was lost between disk and optimizer trains on without an error, and ruins the run: so the numbers that stand in the
optimizer after loading are measured again, and must be those that the receipt states.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch.distributed as dist

from k2.checkpoint.agreement import AgreedProblem, agree, together, total, verify_together
from k2.checkpoint.commit import FORMAT, RECIPE
from k2.checkpoint.placed import TrainingState
from k2.checkpoint.saving import run_of, square
from k2.checkpoint.state import StateReader
from k2.recipe.fitness import misfits
from k2.recipe.load import load_recipe
from k2.run.control import BadResume, note_bad_resume
from k2.run.injection import strike
from k2.run.receipt import Receipt
from k2.train.engine import Engine
from k2.train.faults import strikes

if TYPE_CHECKING:
    from k2.train.loop import Segment

_RELATIVE = 1e-5  # of sums of squares in float32, added up in another order by another layout


class BadResumeFound(AgreedProblem):
    """The state that was loaded is not the state that was saved, whatever its files say."""


def load_checkpoint(segment: "Segment", engine: Engine, inputs: Mapping[str, str]) -> Receipt:
    """Called by all ranks: the engine takes over the segment's checkpoint. Its receipt.

    `AgreedProblem` for one that does not verify or is of another training; `BadResumeFound` when the state came out wrong.
    """
    assert segment.checkpoint is not None
    folder = segment.layout.checkpoint(segment.checkpoint)
    receipt = verify_together(folder)
    agree(_foreign(segment, receipt, inputs))
    with together(lambda: StateReader(folder)) as state:
        together(lambda: engine.restore(state))
    _damage_on_purpose(engine, "resume.after_optim", segment)
    if strikes(segment.recipe, "zeroed_optimizer", segment.stage, segment.first_step):
        engine.damage_optimizer("zero")
    refuse_if(segment, 0, _not_as_saved(engine.state(), receipt))
    _damage_on_purpose(engine, "resume.checked", segment)
    return receipt


def refuse_if(segment: "Segment", step: int, why: str | None) -> None:
    """Called by all ranks: where one has found something, leave word for the driver, and end. `BadResumeFound` on all of them."""
    try:
        agree(None if why is None else f"the resume from {segment.checkpoint} is bad: {why}", BadResumeFound)
    except BadResumeFound as found:
        if dist.get_rank() == 0:
            note_bad_resume(segment.layout, BadResume(segment.attempt, segment.checkpoint or "", step, str(found)))
        dist.barrier()  # nobody ends the others before it is written
        raise


def _foreign(segment: "Segment", receipt: Receipt, inputs: Mapping[str, str]) -> str | None:
    """What of the checkpoint is of another training than the segment's: the keys, with both values."""
    if receipt.facts.get("format") != FORMAT:
        made = receipt.facts.get("format")
        return f"checkpoint {receipt.name} has format {made}, this version reads {FORMAT}: go on with the version that made it"
    changed = [
        f"{name}: {receipt.inputs[name][:12]} -> {inputs[name][:12]}"
        for name in ("tokenizer", "chunks")
        if receipt.inputs.get(name, inputs[name]) != inputs[name]  # an imported one rests on neither
    ]
    if receipt.recipe != inputs["recipe"]:
        trained = load_recipe(str(segment.layout.checkpoint(receipt.name) / RECIPE))
        changed = misfits(trained, segment.recipe) + changed
    if not changed:
        return None
    return (
        f"checkpoint {receipt.name} was trained with other settings than this run's; what differs: {'; '.join(changed)}. A "
        "checkpoint may have another layout, other micro-batches, checkpoints, evaluation and publishing than the run, but not these: put "
        "back what was exchanged, or start another run"
    )


def _not_as_saved(state: TrainingState, receipt: Receipt) -> str | None:
    """Called by all ranks: how the loaded numbers differ from what the receipt states."""
    kinds = sorted(receipt.facts["squares"])
    own = [sum(square(run_of(p, state.partitions.get(kind, ()))) for p in state.pieces if p.counted) if kind in state.partitions else 0.0
           for kind in kinds]  # fmt: skip
    loaded = dict(zip(kinds, total(own), strict=True))
    if state.updates != receipt.facts["updates"]:
        return f"the optimizer counts {state.updates} updates, {receipt.facts['updates']} were saved"
    for kind, saved in receipt.facts["squares"].items():
        if not math.isclose(loaded[kind], saved, rel_tol=_RELATIVE):
            return f"the sum of squares of {kind} is {loaded[kind]:.9g}, {saved:.9g} was saved"
    return None


def _damage_on_purpose(engine: Engine, point: str, segment: "Segment") -> None:
    way = strike(point, segment.first_step)
    if way in ("lose", "zero", "reset"):
        engine.damage_optimizer(way)  # type: ignore[arg-type]  # one of the three
