"""What the detector says: one event with the numbers it rests on. The kinds are the taxonomy of the spikes specification, 4.1."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "grad_only",  # an early warning: the gradient norm is up, the loss is not yet
    "pause_candidate",  # far above the reference for a third of the persistence: likely a verdict soon
    "benign",
    "malignant.long",
    "malignant.train",
    "malignant.creep",
    "nonfinite",
    "bad_resume",
    "phase_shift",  # a small settled shift where one was declared: the new level is normal
    "stall",  # a record came after far too long; whoever watches the process has acted by then
    "sdc_suspect",  # same state, same data, no spike: hardware; said by the policy, after a replay probe
]
MALIGNANT: frozenset[Kind] = frozenset({"malignant.long", "malignant.train", "malignant.creep", "nonfinite", "bad_resume"})


@dataclass(frozen=True)
class Event:
    """`rise_nats` and `z` are the highest of the episode, over the frozen reference."""

    kind: Kind
    stage: str
    attempt: int
    onset_step: int
    verdict_step: int
    rise_nats: float
    z: float
    reference: float
    deviation: float
    age: int  # trained steps from the onset to the verdict, both included
    small_grad_fraction: float | None = None  # share of the span's steps with a small gradient norm; None without norms
    k2_confirmed: bool | None = None  # small norms enough that un-clipped updates did the damage (K2 §3.1); None without norms

    @property
    def malignant(self) -> bool:
        return self.kind in MALIGNANT

    def shown(self) -> dict[str, Any]:
        """As `k2 spikes replay` prints it: `kind` is called `class` there."""
        fields = asdict(self)
        return {"class": fields.pop("kind")} | fields
