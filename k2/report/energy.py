"""What a run has used by the report's formula (K2 §5): device hours x power of a device x PUE, and its carbon.

Enter: the recipe's declared figures, the ledger and the step records. Hours are those in which a trainer ran, in
every attempt, so that what an incident cost is counted as the report counts its 30 days of spike handling. The power is
the one that the machine counted, where every step's record has it, and the declared one otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from k2.recipe.schema import Recipe
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact
from k2.run.records import Branches, StepRecord


@dataclass(frozen=True)
class EnergyUse:
    """`hours` of all attempts; `abandoned_share` of them went into steps that no longer count.

    `measured_kw` is the mean power of the recording host over its steps, None where the machine did not count it.
    """

    hours: float
    mwh: float
    tco2e: float
    abandoned_share: float
    measured_kw: float | None = None


def energy_use(recipe: Recipe, facts: list[Fact], records: Mapping[str, Branches], accepted: int, now: float | None) -> EnergyUse:
    """The energy of the run up to `now` (seconds since the epoch; none: its last sign of life). `accepted` steps still count."""
    hours = trainer_hours(facts, records, now)
    every = [record for attempts in records.values() for branch in attempts.values() for record in branch]
    share = 1 - accepted / len(every) if every else 0.0
    kw = measured_kw(every)
    mwh = recipe.energy.mwh(hours) if kw is None else hours * kw * recipe.energy.pue / 1000
    return EnergyUse(hours, mwh, mwh * recipe.energy.tco2e_per_mwh, share, kw)


def measured_kw(records: Sequence[StepRecord]) -> float | None:
    """The mean power over the steps' seconds, PUE not counted; None unless each of them was metered."""
    seconds = sum(record.seconds for record in records)
    metered = [record.joules for record in records if record.joules is not None]
    return sum(metered) / seconds / 1000 if seconds > 0 and len(metered) == len(records) else None


def trainer_hours(facts: list[Fact], records: Mapping[str, Branches], now: float | None) -> float:
    """Hours in which a trainer ran. The newest attempt lasts until `now` when nothing says that it ended."""
    starts = [fact for fact in facts if isinstance(fact, AttemptStarted)]
    ends = {fact.attempt: seconds_of(fact.at) for fact in facts if isinstance(fact, AttemptEnded)}
    seconds = 0.0
    for start in starts:
        newest = start is starts[-1]
        last_seen = max((record.at for record in records.get(start.stage, {}).get(start.attempt, ())), default=0.0)
        end = ends.get(start.attempt, now if newest and now is not None else last_seen)
        seconds += max(0.0, end - seconds_of(start.at))
    return seconds / 3600


def seconds_of(at: str) -> float:
    """The ledger's ISO time as seconds since the epoch."""
    return datetime.fromisoformat(at).timestamp()
