"""The runs directory and the folders that are published to: whether they can be written, lock and rename, and have room."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.doctor.check import Check, Patient, fails, fine, note, standing_folder
from flows.doctor.writing import Writing, writing_of
from k2.estimate import sized
from k2.publish.target import FolderTarget, TargetError, resolve_targets
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.lease import hold, is_held

_LITTLE_BYTES = 1_000_000_000  # k2_tiny and its publication write a third of it
_SPARE = 1.25  # of what is written: incidents keep what they abandoned
_SKEW_SECONDS = 5.0
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "f2fs")


@dataclass(frozen=True)
class Ground:
    """What a folder can do. `trouble`: what went wrong when it was tried; `skew_seconds`: its clock is ahead of ours."""

    folder: Path
    file_system: str
    trouble: str | None = None
    locks: bool = True
    skew_seconds: float = 0.0


def check_storage(patient: Patient) -> Iterator[Check]:
    """The runs directory, and the room that the recipe needs on every file system."""
    ground = try_out(patient.runs_dir)
    yield from judge_ground(patient, ground)
    if patient.recipe is None:
        yield judge_free(ground.folder, shutil.disk_usage(ground.folder).free)
        return
    needs = needs_by_folder(patient, writing_of(patient.recipe))
    for folder, need in _by_device(needs).items():
        yield judge_room(folder, need, shutil.disk_usage(standing_folder(folder)).free)


def judge_ground(patient: Patient, ground: Ground) -> Iterator[Check]:
    """Writable, locks, renames; and fit for what the place does with it."""
    name, where = "runs directory", f"{patient.runs_dir.resolve()} ({ground.file_system})"
    if ground.trouble is not None:
        yield fails(name, f"{where} cannot be used: {ground.trouble}", "give another with --runs-dir, or have it made writable for you")
        return
    if not ground.locks:
        yield fails(
            name,
            f"{where} does not honour flock, which keeps a run to one writer",
            "mount it with locks (NFS: version 4, or a lock daemon; Lustre: -o flock), or give another with --runs-dir",
        )
        return
    yield fine(name, f"{where} can be written, locks and renames")
    if patient.place.nodes > 1 and ground.file_system in _LOCAL:
        yield note(
            "shared by nodes",
            f"nodes = {patient.place.nodes} hosts share the runs directory, and {ground.file_system} is a file system of this host alone",
            "put the runs on what all hosts mount (unless this very disk is what the others mount)",
        )
    if ground.file_system == "tmpfs":
        yield note("runs in memory", "the runs directory lies in memory (tmpfs): a reboot takes the runs", "give another with --runs-dir")
    if abs(ground.skew_seconds) > _SKEW_SECONDS:
        yield note(
            "clock",
            f"the runs directory's file system is {ground.skew_seconds:+.0f} s off this host's clock",
            "have both clocks set by NTP: times in receipts and signed uploads go by them",
        )


def judge_free(folder: Path, free: int) -> Check:
    """Without a recipe: how much there is."""
    if free < _LITTLE_BYTES:
        hint = "free some space, or give another with --runs-dir"
        return fails("disk", f"{sized(free)} free at {folder}; even k2_tiny wants {sized(_LITTLE_BYTES)}", hint)
    return fine("disk", f"{sized(free)} free at {folder}; give a recipe to have it held against what it will write")


def judge_room(folder: Path, needs: Mapping[str, int], free: int) -> Check:
    """What is written to one file system against what is free there."""
    need = sum(needs.values())
    parts = ", ".join(f"{kind} {sized(bytes_)}" for kind, bytes_ in needs.items() if bytes_)
    found = f"{sized(free)} free at {folder}, about {sized(need)} will be written ({parts})"
    if need > free:
        return fails("disk", found, f"make {sized(need - free)} of room there, or put runs or publications on a larger disk")
    if need * _SPARE > free:
        return note("disk", found, "that fits barely: an incident keeps what it abandons, and pins are kept for good")
    return fine("disk", found)


def needs_by_folder(patient: Patient, writing: Writing) -> dict[Path, dict[str, int]]:
    """Which folder gets how many bytes of which kind."""
    run = {"checkpoints": writing.checkpoints, "exports": writing.exports, "data": writing.data, "scores and pages": writing.beside}
    needs: dict[Path, dict[str, int]] = {patient.runs_dir.resolve(): run}
    for target in folder_targets(patient):
        needs.setdefault(target.path, {})["publication"] = writing.published
    return needs


def folder_targets(patient: Patient) -> list[FolderTarget]:
    """The folders that a run of the place publishes to; targets that are refused are another check's."""
    try:
        targets = resolve_targets(patient.place, RunLayout(patient.runs_dir / "RUN"))
    except TargetError:
        return []
    return [target for target in targets if isinstance(target, FolderTarget)]


def try_out(runs_dir: Path) -> Ground:
    """Make a folder where the runs directory is, or would be made; lock it, write, rename; and take it away again."""
    folder = standing_folder(runs_dir)
    system = file_system_of(folder)
    way = runs_dir.resolve()
    if way != folder and (in_the_way := next(p for p in (way, *way.parents) if p.parent == folder)).exists():
        return Ground(folder, system, trouble=f"{in_the_way} is a file")
    try:
        with tempfile.TemporaryDirectory(prefix=".k2-doctor-", dir=folder) as made:
            layout = RunLayout(Path(made) / "run")
            with hold(layout):
                locks = is_held(layout)
                with durable_folder(layout.root / "renamed") as beside:
                    (beside / "file").write_bytes(b"k2")
                skew = (layout.root / "renamed" / "file").stat().st_mtime - time.time()
    except OSError as error:
        return Ground(folder, system, trouble=error.strerror or str(error))
    return Ground(folder, system, locks=locks, skew_seconds=skew)


def file_system_of(folder: Path) -> str:
    """Its type, as it is mounted: `ext4`, `nfs4`."""
    mounts = [m for m in psutil.disk_partitions(all=True) if folder.is_relative_to(m.mountpoint)]
    return str(max(mounts, key=lambda m: len(Path(m.mountpoint).parts)).fstype) if mounts else "unknown file system"


def _by_device(needs: Mapping[Path, Mapping[str, int]]) -> dict[Path, dict[str, int]]:
    """The needs of folders on one file system together, at the first of them."""
    first: dict[int, Path] = {}
    together: dict[Path, dict[str, int]] = {}
    for folder, need in needs.items():
        at = first.setdefault(standing_folder(folder).stat().st_dev, folder)
        held = together.setdefault(at, {})
        for kind, count in need.items():
            held[kind] = held.get(kind, 0) + count
    return together
