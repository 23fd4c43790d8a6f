"""The checkpoints that tell a spike: before it, at its peak, at the verdict. Held by links of their own, which no retention removes.

What enters is a decided incident whose abandoned checkpoints are set aside; what leaves is the part that each kept one has.
K2 released the checkpoints of both its spikes beside the normal ones (K2 §4.1).
"""

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentDecided, IncidentOpened
from k2.run.receipt import read_receipt
from k2.run.records import StepRecord


def keep_checkpoints(
    layout: RunLayout, incident: IncidentOpened, decision: IncidentDecided, abandoned: Iterable[str], spiked: Sequence[StepRecord]
) -> dict[str, str]:
    """Link them into the incident's folder; which name has which part. `spiked` are the records of the incident's attempt."""
    aside = layout.incident(incident.incident) / layout.checkpoints.name
    steps = {name: int(read_receipt(aside / name).facts["step"]) for name in abandoned}
    target = decision.checkpoint if decision.action == "rollback" else None
    parts = parts_of(incident, spiked, target, steps)
    for name in dict.fromkeys(parts.values()):
        _link(layout.checkpoint(name) if name == target else aside / name, layout.kept(incident.incident).checkpoint(name))
    return parts


def parts_of(incident: IncidentOpened, spiked: Sequence[StepRecord], target: str | None, steps: Mapping[str, int]) -> dict[str, str]:
    """`pre`: what it went back to; `verdict`: saved when the verdict had fallen; `peak`: another, nearest to the highest loss."""
    parts = {} if target is None else {"pre": target}
    after = {name: step for name, step in steps.items() if step >= incident.onset_step}
    if not after:
        return parts
    parts["verdict"] = verdict = max(after, key=lambda name: after[name])
    risen = [record for record in spiked if record.step >= incident.onset_step]
    peak_step = max(risen, key=lambda record: record.loss if math.isfinite(record.loss) else math.inf).step if risen else 0
    others = {name: abs(step - peak_step) for name, step in after.items() if name != verdict}
    return parts | ({"peak": min(others, key=lambda name: others[name])} if others else {})


def _link(source: Path, target: Path) -> None:
    """The folder a second time, its files by hard links: it costs nothing and outlives the first. Copied where links cannot be."""
    if target.exists() or not source.exists():
        return
    with durable_folder(target) as beside:
        shutil.copytree(source, beside, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
