"""The replay probe: the same data once more from the target, to tell a spike of the data from a fault of the hardware. Pure.

Megatron-LM's rerun machine asks the same of one step. What is asked for is a `Probe`; whoever performs it trains the
steps on the same data without saving anything, and gives back the losses; what follows are facts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from k2.recipe.schema import Recipe
from k2.run.holdings import Holdings
from k2.run.ledger import Fact, IncidentOpened, ReplayProbed
from k2.watch.stage import NOTHING
from k2.watch.target import rollback_target, rollbacks_in_region

_NOT_OF_THE_DATA = ("bad_resume", "malignant.creep")  # files, and what a few steps cannot show


@dataclass(frozen=True)
class Probe:
    """Train `first_step` to `last_step` again on the data as it was, from `checkpoint` (none: the start of the stage)."""

    incident: int
    stage: str
    checkpoint: str | None
    first_step: int
    last_step: int


def wanted_probe(recipe: Recipe, facts: Sequence[Fact], holdings: Holdings, incident: IncidentOpened) -> Probe | None:
    """The probe that must be performed before the incident is answered; None where the recipe, or the case, asks for none."""
    probed = any(isinstance(f, ReplayProbed) and f.incident == incident.incident for f in facts)
    first_of_region = not rollbacks_in_region(recipe, facts, incident)
    if not recipe.spikes.probe or probed or incident.kind in _NOT_OF_THE_DATA or not first_of_region:
        return None
    target = rollback_target(recipe, facts, holdings, incident, "skip")
    step = target.step if target is not None else 0
    last = min(incident.onset_step + recipe.spikes.scaled(recipe.spikes.probe_steps, 4), recipe.stage(incident.stage).steps)
    return Probe(incident.incident, incident.stage, target.name if target is not None else None, step + 1, last)


def probed(
    recipe: Recipe, incident: IncidentOpened, probe: Probe, losses: Mapping[int, float], recorded: Mapping[int, float] = NOTHING
) -> ReplayProbed:
    """The probe's outcome from the losses of its steps: reproduced when any from the onset on is as loud as an onset is.

    `recorded` are the losses of the attempt that spiked: the first that came out otherwise says where it went wrong.
    """
    reference, deviation = incident.evidence["reference"], incident.evidence["deviation"]
    after = [loss for step, loss in losses.items() if step >= incident.onset_step]
    loud = any(not math.isfinite(loss) or loss - reference > recipe.spikes.onset_z * deviation for loss in after)
    differs = min((step for step, loss in losses.items() if step in recorded and not _agree(recipe, loss, recorded[step])), default=None)
    why = "the same data gave the same spike"
    if not loud:
        why = f"attempt {incident.attempt} computed {'otherwise' if differs is None else f'step {differs} otherwise'} than its replay"
    return ReplayProbed(incident=incident.incident, checkpoint=probe.checkpoint, reproduced=loud, differs_at=differs, why=why)


def not_probed(incident: IncidentOpened, probe: Probe, why: str) -> ReplayProbed:
    """Where the probe could not be trained: nothing speaks for the data then, and the incident is answered as without one."""
    return ReplayProbed(incident=incident.incident, checkpoint=probe.checkpoint, reproduced=True, why=why)


def is_hardware(facts: Sequence[Fact], incident: IncidentOpened) -> bool:
    """Whether a probe showed that the data is innocent (`sdc_suspect`)."""
    return any(isinstance(f, ReplayProbed) and f.incident == incident.incident and not f.reproduced for f in facts)


def _agree(recipe: Recipe, again: float, recorded: float) -> bool:
    """Whether a replayed loss is the recorded one, on other devices too."""
    both_lost = not math.isfinite(again) and not math.isfinite(recorded)
    return both_lost or math.isclose(again, recorded, rel_tol=recipe.spikes.replay_relative)
