"""The host: memory and cores against its ranks, /dev/shm, open files, a compiler where layers are compiled.

A container's or a job's limits count, not the machine's size: the kernel ends who exceeds them.
"""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.doctor.check import Check, Patient, fails, fine, note
from k2.estimate import Memory, Plan, plan, sized
from k2.launch.seats import Device

_PROCESS_BYTES = 300_000_000  # of a rank with torch and DeepSpeed before its first tensor; measured: 0.26 GB
_EVALUATOR_BYTES = 600_000_000  # with the harness, before its model; measured: 0.53 GB
_SHARED_BYTES = 1 << 30  # what NCCL's documentation asks of a container
_OPEN_FILES = 1024
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 of control groups says a number near 2**63


@dataclass(frozen=True)
class Host:
    """What there is for the processes of this host. `memory_free` is what can be had now of `memory`."""

    memory: int
    memory_free: int
    cores: int
    shared_memory: int | None  # free in /dev/shm; none: it is not there
    open_files: int
    compiler: str | None


def check_machine(patient: Patient, device: Device) -> Iterator[Check]:
    """Everything about this host but its devices."""
    yield from judge_host(patient, device, this_host())


def judge_host(patient: Patient, device: Device, host: Host) -> Iterator[Check]:
    yield _judge_memory(patient, device, host)
    yield _judge_cores(patient, host)
    yield _judge_shared_memory(patient, device, host)
    yield _judge_open_files(patient, host)
    if patient.place.compile_layers and host.compiler is None:
        hint = "install g++, or set compile_layers to false"
        yield fails("compiler", "compile_layers = true of the place, and no C++ compiler is here", hint)


def memory_needed(patient: Patient, planned: Plan, device: Device) -> int:
    """Bytes that the ranks and the evaluator of this host take of its memory, by the estimate of `k2 plan`.

    On CUDA the training's numbers lie on the devices; the copy of the state that a checkpoint is written from lies here either way.
    """
    beside = patient.place.saving == "beside"

    def of_rank(memory: Memory) -> int:
        return _PROCESS_BYTES + (memory.total if device == "cpu" else 0) + (memory.optimizer if beside else 0)

    alike = planned.ranks // len(planned.memory_by_pipeline_rank)
    ranks = sorted((of_rank(memory) for memory in planned.memory_by_pipeline_rank for _ in range(alike)), reverse=True)
    return sum(ranks[: patient.ranks_here]) + _EVALUATOR_BYTES + planned.parameters * 4


def _judge_memory(patient: Patient, device: Device, host: Host) -> Check:
    free = f"{sized(host.memory_free)} free of {sized(host.memory)}"
    if patient.recipe is None:
        return fine("memory", free)
    need = memory_needed(patient, plan(patient.recipe), device)
    found = f"{free}; ranks ({patient.ranks_here} on the {device}) and an evaluator take about {sized(need)}"
    if need > host.memory:
        return fails("memory", found, "use more hosts (nodes of the place), smaller micro-batches, recomputation, or a larger machine")
    if need > host.memory_free:
        return fails("memory", found, "other processes hold the rest: end them, or wait")
    return fine("memory", found)


def _judge_cores(patient: Patient, host: Host) -> Check:
    threads = patient.place.threads_per_rank
    if patient.ranks_here is None:
        return fine("cores", f"{host.cores}")
    found = f"{host.cores}; ranks x threads_per_rank = {patient.ranks_here} x {threads}"
    if patient.ranks_here * threads > host.cores:
        return note("cores", found, "they share cores and train slower: lower threads_per_rank, or use more hosts")
    return fine("cores", found)


def _judge_shared_memory(patient: Patient, device: Device, host: Host) -> Check:
    name = "/dev/shm"  # noqa: S108 (its name)
    if host.shared_memory is None:
        return fails(name, "is not there, or not writable: the processes that prepare data meet in it", "mount a tmpfs there")
    found = f"{sized(host.shared_memory)} free"
    if device == "cuda" and (patient.ranks_here or 1) > 1 and host.shared_memory < _SHARED_BYTES:
        hint = "start the container with --shm-size=1g or more, or share the host's (--ipc=host)"
        return fails(name, f"{found}; NCCL wants {sized(_SHARED_BYTES)} for ranks of one host", hint)
    return fine(name, found)


def _judge_open_files(patient: Patient, host: Host) -> Check:
    ranks = 1 if patient.recipe is None else patient.recipe.layout.ranks
    wanted = max(_OPEN_FILES, 4 * ranks)  # a rank keeps a few connections to each of the others
    if host.open_files < wanted:
        return note("open files", f"{host.open_files} a process, {wanted} are wanted", "raise the limit: `ulimit -n 65536`")
    return fine("open files", f"{host.open_files} a process")


def this_host() -> Host:
    memory, own = psutil.virtual_memory(), Path("/proc/self/cgroup")
    limit, used = memory_limit(_CGROUPS, own)
    total = min(int(memory.total), limit)
    return Host(
        memory=total,
        memory_free=min(int(memory.available), max(0, limit - used)),
        cores=max(1, int(min(len(os.sched_getaffinity(0)), cores_allowed(_CGROUPS, own)))),
        shared_memory=_free_shared_memory(Path("/dev/shm")),  # noqa: S108 (asked, not written to)
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        compiler=shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"),
    )


def memory_limit(cgroups: Path, own: Path) -> tuple[int, int]:
    """(limit, used) bytes of the tightest control group that this process is in, of either version; a very large limit where none is."""
    found = [(_UNLIMITED, 0)]
    for version, folder in _own_groups(cgroups, own, "memory"):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        found.append(_read_limit(folder, *names))
    return min(found, key=lambda pair: pair[0] - pair[1])


def cores_allowed(cgroups: Path, own: Path) -> float:
    """How many cores' time the control groups of version 2 leave to this process; infinite where they do not say."""
    allowed = [float("inf")]
    for _, folder in _own_groups(cgroups, own, "cpu"):
        with suppress(OSError, ValueError):  # "max 100000", or no such file at the root
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            allowed.append(quota / period)
    return min(allowed)


def _own_groups(cgroups: Path, own: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of the process's groups that have the controller, with the version, from its own to the root."""
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers
        folder = root / path.lstrip("/")
        yield from ((1 if controllers else 2, one) for one in (folder, *folder.parents) if one.is_relative_to(root))


def _read_limit(folder: Path, limit: str, used: str) -> tuple[int, int]:
    try:
        return int((folder / limit).read_text()), max(0, int((folder / used).read_text()) - _cached(folder / "memory.stat"))
    except (OSError, ValueError):  # "max", or no such file at the root
        return _UNLIMITED, 0


def _cached(stat: Path) -> int:
    """Bytes of files that were read and are not in use: a group's use counts them, and the kernel gives them up before anything else."""
    values = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _free_shared_memory(folder: Path) -> int | None:
    return shutil.disk_usage(folder).free if os.access(folder, os.W_OK | os.X_OK) and folder.is_dir() else None
