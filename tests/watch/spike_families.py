"""What the tests of this folder take from `k2.watch.families`, and the detector's events over a curve."""

from k2.recipe.spikes import Spikes
from k2.watch.event import Event
from k2.watch.families import LONG, TINY, Curve, Scale, calm, family, records, resumed_records
from k2.watch.spikes import Detector, observe

__all__ = ["LONG", "TINY", "Curve", "Scale", "calm", "family", "records", "resumed_records", "verdicts"]


def verdicts(loss: Curve, scale: Scale) -> list[Event]:
    return list(observe(Detector(Spikes(persistence_steps=scale.persistence_steps)), records(loss)))
