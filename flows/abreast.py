"""Checkpoints side by side: every device of the run's place takes the next one as soon as it is free.

Each device has an evaluator of its own and is held while it works, so that nobody else's evaluation shares it. A device that is taken by
somebody else is waited for as long as there is something left for it. With one device all happens in the calling thread, in order.
"""

import contextvars
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from flows.device import device_held
from flows.run import Run
from k2.launch.evaluator import Evaluator, EvaluatorClosed
from k2.launch.process import count_cuda_devices
from k2.launch.seats import Seat, seats

Score = Callable[[Run, str], None]  # of one checkpoint, with the run as the device that took it sees it


@dataclass(frozen=True)
class _Queue:
    """What is left to do, and what failed. Any thread may take from it."""

    names: deque[str]
    failed: dict[str, str] = field(default_factory=dict)

    def next(self) -> str | None:
        try:
            return self.names.popleft()
        except IndexError:
            return None


def side_by_side(run: Run, names: Iterable[str], score: Score) -> dict[str, str]:
    """Score each checkpoint once, on whichever device is free. Why those failed that did, by name: one that fails holds up no other."""
    queue = _Queue(deque(names))
    first, *others = seats(run.place, os.environ, count_cuda_devices())
    others = others[: max(0, len(queue.names) - 1)]
    with ExitStack() as stack:  # on the way out the evaluators are closed, then their threads are waited for
        threads = stack.enter_context(ThreadPoolExecutor(max(1, len(others)), "evaluating"))
        running = [threads.submit(contextvars.copy_context().run, _serve, _seated(run, seat, stack), seat, queue, score) for seat in others]
        stack.callback(queue.names.clear)
        _serve(run, first, queue, score)
        for one in running:
            one.result()
    return queue.failed


def _seated(run: Run, seat: Seat, stack: ExitStack) -> Run:
    """The run with an evaluator of that seat."""
    return replace(run, evaluator=stack.enter_context(Evaluator.of(run.place, run.layout, run.lease, seat.number)))


def _serve(run: Run, seat: Seat, queue: _Queue, score: Score) -> None:
    """Take checkpoint after checkpoint until none is left."""
    if not queue.names:
        return
    with device_held(run.layout.root.parent, seat, run.say, lambda: bool(queue.names)) as held:
        while held and (name := queue.next()) is not None:
            try:
                score(run, name)
            except EvaluatorClosed:
                raise
            except Exception as error:  # the boundary between checkpoints: one that fails is told, and the next is tried
                run.say(f"{name}: {error}")
                queue.failed[name] = f"{error.__class__.__name__}: {error}"
