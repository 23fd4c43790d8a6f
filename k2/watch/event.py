"""What the detector says: one verdict with the numbers it rests on."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["grad_only", "benign", "malignant.long", "malignant.train", "malignant.creep", "nonfinite", "bad_resume"]
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

    @property
    def malignant(self) -> bool:
        return self.kind in MALIGNANT

    def shown(self) -> dict[str, Any]:
        """As `k2 spikes replay` prints it: `kind` is called `class` there."""
        fields = asdict(self)
        return {"class": fields.pop("kind")} | fields
