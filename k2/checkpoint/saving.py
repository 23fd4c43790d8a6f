"""Saving beside the training: a thread of each rank copies its numbers, writes, digests and commits them while steps go on.

The training waits for two things only: for the copy, just before the next update would change the numbers, and for the
checkpoint before this one, before the next begins. The receipt still comes last, and only when every rank's file is synced.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from k2.checkpoint.agreement import AgreedProblem, agree
from k2.checkpoint.commit import Commit, GivenUp, Measured, Share
from k2.checkpoint.placed import PlacedPiece, TrainingState
from k2.checkpoint.shard import Kind, shard_name, write_shard
from k2.run.injection import strike
from k2.run.receipt import Receipt

RETRY_SECONDS = (0.5, 2.0)  # a full disk may be made room on, a shared one answers again
_BLOCK = 1 << 20
_NICENESS = 10  # of the thread once it has copied, for which the training waits: where every core computes, it takes what they leave


class NotSaved(AgreedProblem):
    """A checkpoint that the world did not let us save; the earlier ones stand."""


class NotFinite(AgreedProblem):
    """A state that must not be saved: something in it is NaN or infinite."""


@dataclass
class Order:
    """What is to be saved. `ready` is called before the commit (records to the disk), `may_commit` just before the rename."""

    commit: Commit
    receipt: Receipt
    texts: Mapping[str, str]  # small files beside the shards, by name
    ready: Callable[[], None]
    may_commit: Callable[[], bool]


@dataclass
class _Flight:
    """A checkpoint on its way, as one rank sees it."""

    order: Order
    copied: threading.Event = field(default_factory=threading.Event)
    written: threading.Event = field(default_factory=threading.Event)
    called_off: threading.Event = field(default_factory=threading.Event)
    not_finite: str | None = None
    problem: str | None = None
    sealed: Receipt | None = None
    thread: threading.Thread | None = None


class Saver:
    """One checkpoint at a time, called by all ranks alike."""

    def __init__(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self._flight: _Flight | None = None
        self._copies: dict[Kind, list[Tensor]] = {}

    def begin(self, order: Order, state: TrainingState) -> None:
        """Begin to save the state. Settle the one before first. Returns at once."""
        assert self._flight is None, "a checkpoint is still on its way: settle it first"
        flight = self._flight = _Flight(order)
        ready = _mark(state)
        flight.thread = threading.Thread(target=self._work, args=(flight, state, ready), name="saving", daemon=True)
        flight.thread.start()

    def before_update(self) -> None:
        """The optimizer is about to change the numbers: wait until they are copied."""
        if self._flight is not None:
            self._flight.copied.wait()

    def settle(self) -> Receipt | None:
        """Wait for the checkpoint on its way, if there is one. On rank 0 its receipt. `NotFinite` or `NotSaved` on all ranks."""
        flight, self._flight = self._flight, None
        if flight is None or flight.thread is None:
            return None
        flight.written.wait()
        try:
            agree(flight.not_finite, NotFinite)
            agree(flight.problem, NotSaved)
            flight.thread.join()
            agree(flight.problem, NotSaved)
        except AgreedProblem:
            flight.called_off.set()
            flight.thread.join()
            if self.rank == 0:
                flight.order.commit.forget()
            raise
        return flight.sealed

    def _work(self, flight: _Flight, state: TrainingState, ready: "torch.cuda.Event | None") -> None:
        try:
            try:
                self._copy(state, ready)
            finally:
                flight.copied.set()
            with contextlib.suppress(OSError, AttributeError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            measured = _measured(state, self._copies)
            if measured.not_finite:
                flight.not_finite = _cannot_be_saved(flight.order, measured.not_finite)
            else:
                self._write(flight, state.pieces, measured)
        except Exception as error:  # the boundary of the thread: the training is told when it settles
            flight.problem = _cannot_save(flight.order, error)
        finally:
            flight.written.set()
        if self.rank == 0 and flight.problem is None and flight.not_finite is None:
            self._seal(flight)

    def _copy(self, state: TrainingState, ready: "torch.cuda.Event | None") -> None:
        """Into memory of our own, allotted once."""
        if {kind: [p.shape for p in parts] for kind, parts in state.partitions.items()} != {
            kind: [c.shape for c in copies] for kind, copies in self._copies.items()
        }:
            self._copies = {
                kind: [torch.empty(p.shape, dtype=p.dtype, pin_memory=p.is_cuda) for p in parts] for kind, parts in state.partitions.items()
            }
        with _beside_the_kernels(ready, state.partitions["master"][0].device):
            for kind, parts in state.partitions.items():
                for copy, part in zip(self._copies[kind], parts, strict=True):
                    copy.copy_(part, non_blocking=part.is_cuda)

    def _write(self, flight: _Flight, pieces: Sequence[PlacedPiece], measured: Measured) -> None:
        """Write and sync this rank's file, and hand it in; again after a while where the disk would not take it."""
        commit, step = flight.order.commit, flight.order.receipt.facts.get("step")
        numbers = [(placed.piece, _floats(placed, self._copies)) for placed in pieces]
        for delay in (*RETRY_SECONDS, None):
            try:
                file = write_shard(commit.open() / shard_name(self.rank), numbers, measured.updates)
                strike("ckpt.after_shard", step)
                commit.hand_in(self.rank, Share(file=file, measured=measured))
                return
            except OSError:
                if delay is None:
                    raise
                time.sleep(delay)

    def _seal(self, flight: _Flight) -> None:
        order = flight.order
        try:
            shares = order.commit.collect(flight.called_off.is_set)
            order.ready()
            flight.sealed = order.commit.seal(order.receipt, shares, order.texts, order.may_commit)
        except GivenUp:
            return
        except Exception as error:  # as above
            flight.problem = _cannot_save(order, error)


def _floats(placed: PlacedPiece, copies: Mapping[Kind, Sequence[Tensor]]) -> dict[Kind, memoryview]:
    return {kind: run_of(placed, parts).numpy().data for kind, parts in copies.items()}


def _measured(state: TrainingState, copies: Mapping[Kind, Sequence[Tensor]]) -> Measured:
    squares = {
        kind: math.fsum(square(run_of(placed, parts)) for placed in state.pieces if placed.counted) for kind, parts in copies.items()
    }
    runs = [run_of(placed, parts) for parts in copies.values() for placed in state.pieces]
    lost = 0 if math.isfinite(sum(squares.values())) else sum(int((~torch.isfinite(run)).sum()) for run in runs)
    return Measured(updates=state.updates, squares=squares, not_finite=lost)


def square(numbers: Tensor) -> float:
    """The sum of squares: in float32 within a block, in float64 over the blocks, so that layouts agree to a millionth."""
    return math.fsum(float(torch.linalg.vector_norm(block)) ** 2 for block in torch.split(numbers, _BLOCK))


def run_of(placed: PlacedPiece, parts: Sequence[Tensor]) -> Tensor:
    """The piece's numbers, where they lie."""
    return parts[placed.partition].narrow(0, placed.offset, placed.piece.length)


def _mark(state: TrainingState) -> "torch.cuda.Event | None":
    """On a GPU: the place in the stream after which the numbers stand."""
    if not state.partitions["master"][0].is_cuda:
        return None
    mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
    mark.record()
    return mark


@contextlib.contextmanager
def _beside_the_kernels(ready: "torch.cuda.Event | None", device: torch.device) -> Iterator[None]:
    """Copies inside go over a stream of their own, and are there when it is left. A new thread would begin on the first device."""
    if ready is None:
        yield
        return
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    beside.wait_event(ready)
    with torch.cuda.stream(beside):
        yield
    beside.synchronize()


def _cannot_save(order: Order, error: Exception) -> str:
    name = order.commit.target.name
    return f"checkpoint {name} could not be saved: {error}. The earlier checkpoints are untouched; make room and resume the run"


def _cannot_be_saved(order: Order, lost: int) -> str:
    return (
        f"after step {order.receipt.facts['step']} {lost} weights or moments are not finite: {order.commit.target.name} is not saved; "
        "go back to an earlier checkpoint"
    )
