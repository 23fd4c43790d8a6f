"""The engine under the map: the processes that prepare data, chosen by the place. The tasks are the same for all.

Enters a function and its tasks; leaves the results as they are finished, in any order: what is made may not depend on it.
A task is a value and its function lies in a module, so that any process can take it up. What a task makes it commits
itself, in files that all workers share; a result is a few numbers.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol, TypeVar

from k2.recipe.place import Place

Task = TypeVar("Task")
Result = TypeVar("Result")
_SMALL_BYTES = 32_000_000  # of text: so much is encoded before a second process has loaded its libraries
_QUEUED_PER_WORKER = 4
_RETRIES = 2  # of a task whose worker a cluster has lost


class WorkerLost(RuntimeError):
    """A process that prepared data was killed from outside. What it had committed stays."""


class Engine(Protocol):
    """Calls a function on every task. The first error ends it and comes out."""

    def map(self, call: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]: ...


class PlainEngine:
    """Calls in this process, one task after the other."""

    def map(self, call: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        return map(call, tasks)


class PoolEngine:
    """Calls in processes of this machine. They end with the process that started them, however it ends."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int) -> None:
        self._pool, self._queued = pool, workers * _QUEUED_PER_WORKER

    def map(self, call: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        left = iter(tasks)
        running: set[Future[Result]] = {self._pool.submit(call, task) for task in islice(left, self._queued)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {self._pool.submit(call, task) for task in islice(left, len(done))}
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise WorkerLost(
                "a process that prepared data was killed, perhaps because the machine's memory ran out: "
                "set the place's workers lower and start again; what is finished stays"
            ) from error


class DaskEngine:
    """Calls on the workers of a Dask cluster, which must see the run directory and the data folder under the same paths."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, call: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        from distributed import as_completed

        futures = self._client.map(call, tasks, pure=False, retries=_RETRIES)
        for finished in as_completed(futures):
            yield finished.result()
            finished.release()


class RayEngine:
    """Calls on a Ray cluster, whose nodes must see the run directory and the data folder under the same paths."""

    def __init__(self, ray: Any, workers: int) -> None:
        self._ray, self._queued = ray, workers * _QUEUED_PER_WORKER

    def map(self, call: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        remote = self._ray.remote(max_retries=_RETRIES)(call)
        left = iter(tasks)
        running = [remote.remote(task) for task in islice(left, self._queued)]
        while running:
            done, running = self._ray.wait(running)
            running += [remote.remote(task) for task in islice(left, len(done))]
            yield from self._ray.get(done)


@contextmanager
def open_engine(place: Place, work_bytes: int) -> Iterator[Engine]:
    """The place's engine for work over so many bytes of text; its processes end when the block does."""
    workers = place.workers or _workers_for(work_bytes)
    match place.engine:
        case "pool" if workers == 1:
            yield PlainEngine()
        case "pool":
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
                try:
                    yield PoolEngine(pool, workers)
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
        case "dask":
            with _dask_client(place.engine_address, workers) as client:
                yield DaskEngine(client)
        case "ray":
            with _ray(place.engine_address, workers) as ray:
                yield RayEngine(ray, workers)


def _workers_for(work_bytes: int) -> int:
    return 1 if work_bytes < _SMALL_BYTES else len(os.sched_getaffinity(0))


def _begin_worker() -> None:
    """A worker finishes its task when the user interrupts the build, and ends when the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watching the parent", daemon=True).start()


@contextmanager
def _dask_client(address: str | None, workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if address is not None:
        with Client(address) as client:
            yield client
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _ray(address: str | None, workers: int) -> Iterator[Any]:
    import ray

    if address is None:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    else:
        ray.init(address=address, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()
