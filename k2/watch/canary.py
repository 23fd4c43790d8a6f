"""The canary of a resume: whether the first steps after it repeat what was recorded before. Pure.

A resume that looks fine on its first step can be broken: the first loss depends on the weights alone, the second shows what the
optimizer's state did to them. Of 63 resumes in the wild three were broken, twice from the same files with the same values, so
trying a checkpoint again is useless; and where records overlap, a healthy one repeats the first step to the bit (36 of 36).
"""

import math
from collections.abc import Mapping, Sequence

from k2.run.ledger import AttemptStarted, DataOperation, Fact, IncidentOpened, ResumeRefused, UpdatesTempered
from k2.run.records import Branches, StepRecord

CANARY_STEPS = 5  # after a resume that are held against the record; what is lost shows by the second
RELATIVE_TOLERANCE = 1e-3  # where the arithmetic is another: other ranks, another device


def recorded_steps(facts: Sequence[Fact], branches: Branches, stage: str, first_step: int, by_attempt: int | None) -> dict[int, StepRecord]:
    """What was recorded of the steps that come now, if data and updates were the same: past an operation nothing is compared.

    Of several attempts the one that saved the checkpoint (`by_attempt`) counts, else the newest; refused ones never do, nor does what
    an attempt recorded since the onset of its incident: had a chip computed wrongly there, a healthy resume would not repeat it.
    """
    refused = {fact.attempt for fact in facts if isinstance(fact, ResumeRefused)}
    operated = max((i for i, f in enumerate(facts) if isinstance(f, DataOperation | UpdatesTempered) and f.stage == stage), default=-1)
    started = [f.attempt for i, f in enumerate(facts) if i > operated and isinstance(f, AttemptStarted) and f.stage == stage]
    found: dict[int, StepRecord] = {}
    for attempt in sorted(set(started) - refused, key=lambda number: (number == by_attempt, number)):
        onset = min((f.onset_step for f in facts if isinstance(f, IncidentOpened) and f.attempt == attempt), default=math.inf)
        end = min(first_step + CANARY_STEPS, onset)
        found |= {r.step: r for r in branches.get(attempt, []) if first_step <= r.step < end}
    return found


def mismatch(recorded: Mapping[int, StepRecord], record: StepRecord, exact: bool) -> str | None:
    """How the step differs from what was recorded of it; None where it agrees or nothing is known of it.

    `exact`: the same layout on the same kind of processor, so that loss and gradient norm must be the same numbers to the bit.
    """
    known = recorded.get(record.step)
    if known is None or known.lr != record.lr:
        return None
    if exact and not (_same(known.loss, record.loss) and _same(known.grad_norm, record.grad_norm)):
        return _difference(known, record, "the same numbers to the bit")
    if not exact and not math.isclose(known.loss, record.loss, rel_tol=RELATIVE_TOLERANCE):
        return _difference(known, record, f"the same loss to {RELATIVE_TOLERANCE:g}")
    return None


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _difference(known: StepRecord, record: StepRecord, rule: str) -> str:
    return (
        f"step {record.step} has loss {record.loss!r} and gradient norm {record.grad_norm!r}; attempt {known.attempt} recorded "
        f"{known.loss!r} and {known.grad_norm!r} there, and a healthy resume gives {rule}"
    )
