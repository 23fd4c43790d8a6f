"""The ledger: the append-only JSONL of facts of a run. The state of a run is a fold over it.

Each line carries the digest of the line before it, so a line that was changed, lost or put in is seen
(`LedgerBroken`). Only the holder of the run's lease appends. A torn last line (a crash while writing) is cut
off before the next append; it was never a fact.
"""

import hashlib
import os
import threading
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from k2.run.receipt import now

_START = "0" * 64
_APPENDING = threading.Lock()  # the lease keeps other processes out, this keeps our own threads apart


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str = Field(default_factory=now)
    prev: str = Field(default=_START, description="SHA-256 of the line before")


class RunCreated(_Fact):
    fact: Literal["run_created"] = "run_created"
    run: str
    recipe: str
    recipe_name: str


class RunRestored(_Fact):
    """The run goes on from a published checkpoint. Every fact before this one is of the run that published it."""

    fact: Literal["run_restored"] = "run_restored"
    source: str
    checkpoint: str
    digest: str = Field(description="of the checkpoint's receipt")
    published: str = Field(description="digest of the receipt that was published over it")


class AttemptStarted(_Fact):
    """A segment was launched: from a checkpoint (none: from scratch), its first trained step being `first_step`."""

    fact: Literal["attempt_started"] = "attempt_started"
    attempt: int
    stage: str
    checkpoint: str | None
    first_step: int


class AttemptEnded(_Fact):
    """How a segment ended. `lost`: its driver was killed, as the next one notes, or one of its hosts was."""

    fact: Literal["attempt_ended"] = "attempt_ended"
    attempt: int
    outcome: Literal["completed", "stopped", "crashed", "lost"]
    exit_code: int
    reason: str = ""
    saved_at: float | None = Field(default=None, description="when the checkpoint that ends it was there, seconds since the epoch")


class StepsSkipped(_Fact):
    """A data operation: these steps are not trained. Step numbers, learning rate and chunk ends stay where they were."""

    fact: Literal["steps_skipped"] = "steps_skipped"
    stage: str
    first_step: int
    last_step: int
    who: str
    why: str


class SamplesSkipped(_Fact):
    """A data operation: these rows of a chunk (from 0, the last included) are not trained, wherever the chunk stands."""

    fact: Literal["samples_skipped"] = "samples_skipped"
    stage: str
    chunk: int
    first_row: int
    last_row: int
    who: str
    why: str


class ChunkDeferred(_Fact):
    """A data operation: the chunk at `position` of the order as it stood moves to the end of it."""

    fact: Literal["chunk_deferred"] = "chunk_deferred"
    stage: str
    position: int
    who: str
    why: str


class ChunksReordered(_Fact):
    """A data operation: from `position` on stand `chunks`, where `before` stood: the same chunks in another order."""

    fact: Literal["chunks_reordered"] = "chunks_reordered"
    stage: str
    position: int
    before: tuple[int, ...]
    chunks: tuple[int, ...]
    who: str
    why: str


class ChunkRepeated(_Fact):
    """A data operation: `chunk` of `position` is trained again at the later position `again_at`, in the place of `replaced`."""

    fact: Literal["chunk_repeated"] = "chunk_repeated"
    stage: str
    position: int
    chunk: int
    again_at: int
    replaced: int
    who: str
    why: str


class CheckpointQuarantined(_Fact):
    """A checkpoint that did not verify was set aside."""

    fact: Literal["checkpoint_quarantined"] = "checkpoint_quarantined"
    checkpoint: str
    why: str


class ResumeRefused(_Fact):
    """The first steps after a resume did not repeat the record, or the state that was loaded was not what had been saved."""

    fact: Literal["resume_refused"] = "resume_refused"
    attempt: int
    checkpoint: str
    step: int = Field(description="the step that showed it; 0: before the first")
    why: str


class IncidentOpened(_Fact):
    """A malignant verdict, with the numbers it rests on. `attempt` is the one that must end.

    `why_asked` says why the policy left it to a human; none where it answered alone.
    """

    fact: Literal["incident_opened"] = "incident_opened"
    incident: int
    stage: str
    attempt: int
    kind: str
    onset_step: int
    verdict_step: int
    evidence: dict[str, float] = Field(default_factory=dict)
    why_asked: str | None = None


class IncidentDecided(_Fact):
    """What is done about it. `rollback` goes back to `checkpoint` (none: to the stage's start); the data operation is its own fact."""

    fact: Literal["incident_decided"] = "incident_decided"
    incident: int
    action: Literal["rollback", "continue", "abort"]
    checkpoint: str | None = None
    data: Literal["skip", "defer", "none"] = "none"
    who: str = "policy"


class ReplayProbed(_Fact):
    """The same data was trained again from `checkpoint`: whether the spike came back. If not, it was the hardware (`sdc_suspect`)."""

    fact: Literal["replay_probed"] = "replay_probed"
    incident: int
    checkpoint: str | None
    reproduced: bool
    differs_at: int | None = Field(default=None, description="the first step whose loss came out otherwise than it was recorded")
    why: str = Field(default="", description="what it rests on, as a sentence")


class UpdatesTempered(_Fact):
    """A change of the optimizer for a while: from `first_step` to `last_step` the learning rate and the clip are multiplied."""

    fact: Literal["updates_tempered"] = "updates_tempered"
    stage: str
    first_step: int
    last_step: int
    learning_rate_factor: float = 1.0
    clip_factor: float = 1.0
    who: str
    why: str


class IncidentClosed(_Fact):
    """The evidence lies in its folder, the abandoned checkpoints are out of the way: training may go on."""

    fact: Literal["incident_closed"] = "incident_closed"
    incident: int
    abandoned: tuple[str, ...] = ()


class DutyFailed(_Fact):
    """An obligation that could not be settled now; it stays owed."""

    fact: Literal["duty_failed"] = "duty_failed"
    checkpoint: str
    duty: str
    why: str


DataOperation = StepsSkipped | SamplesSkipped | ChunkDeferred | ChunksReordered | ChunkRepeated
Fact = (
    RunCreated
    | RunRestored
    | AttemptStarted
    | AttemptEnded
    | StepsSkipped
    | SamplesSkipped
    | ChunkDeferred
    | ChunksReordered
    | ChunkRepeated
    | CheckpointQuarantined
    | ResumeRefused
    | IncidentOpened
    | IncidentDecided
    | ReplayProbed
    | UpdatesTempered
    | IncidentClosed
    | DutyFailed
)
_FACT: TypeAdapter[Fact] = TypeAdapter(Annotated[Fact, Field(discriminator="fact")])


class LedgerBroken(ValueError):
    """A ledger whose chain does not hold. The text names the line."""


def read_facts(path: Path) -> list[Fact]:
    """All facts in order. `LedgerBroken` when a line is not a fact or does not follow from the one before."""
    return _read(path)[0]


def append_facts(path: Path, *facts: Fact) -> list[Fact]:
    """Append the facts, chained and synced, all of them or none; give all facts back. Hold the run's lease to call it."""
    with _APPENDING:
        return _append(path, facts)


def ledger_head(path: Path) -> str:
    """Digest of the last line: names the whole history up to it."""
    return _read(path)[2]


def last_attempt(facts: Iterable[Fact]) -> int:
    """The number of the newest attempt, 0 before the first."""
    return max((fact.attempt for fact in facts if isinstance(fact, AttemptStarted)), default=0)


def _append(path: Path, facts: tuple[Fact, ...]) -> list[Fact]:
    known, good_bytes, head = _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for fact in facts:
        chained = fact.model_copy(update={"prev": head})
        line = chained.model_dump_json().encode()
        head = hashlib.sha256(line).hexdigest()
        lines.append(line + b"\n")
        known.append(chained)
    with path.open("ab", buffering=0) as file:  # a buffer would write again, on closing, what could not be written
        file.truncate(good_bytes)
        try:
            _write_whole(file, b"".join(lines))
        except BaseException:
            file.truncate(good_bytes)
            raise
    return known


def _write_whole(file: FileIO, content: bytes) -> None:
    """Write and sync. A disk that fills up takes a part and says so only at the next write."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _read(path: Path) -> tuple[list[Fact], int, str]:
    """The facts, the bytes they take, and the digest of the last line."""
    facts: list[Fact] = []
    head, good_bytes = _START, 0
    content = path.read_bytes() if path.is_file() else b""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            fact = _FACT.validate_json(line)
        except ValidationError as error:
            raise LedgerBroken(f"{path}, line {number}, is no fact ({error.errors()[0]['msg']}); restore the ledger from a copy") from error
        if fact.prev != head:
            raise LedgerBroken(
                f"{path}, line {number}, does not follow from line {number - 1}: the ledger was edited or damaged; restore it from a copy"
            )
        head = hashlib.sha256(line).hexdigest()
        good_bytes += len(line) + 1
        facts.append(fact)
    return facts, good_bytes, head
