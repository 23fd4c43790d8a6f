"""Which checkpoint may be started from. Torch-free: digests and receipts decide.

A checkpoint is verified before every load: every file is digested again. What does not verify is moved to the
quarantine with all that was made of it; the driver records that and asks `next_action` again, which then names the next older one.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from k2.run.durable import sync_folder
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, Receipt, check_files, find_receipt, read_receipt, receipts_in
from k2.run.setting_aside import set_aside

_AT_ONCE = min(32, os.cpu_count() or 1)  # files digested before a launch, when no rank needs the cores yet


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that was set aside, and what was wrong with it."""

    name: str
    why: str


def verify(layout: RunLayout, name: str, at_once: int = 1) -> list[str]:
    """What is wrong with the checkpoint, one line each; none when every byte agrees with its receipt. See `check_files`."""
    folder = layout.checkpoint(name)
    try:
        receipt = read_receipt(folder / RECEIPT)
    except ValueError as error:
        return [str(error)]
    misstated = wrong_receipt(receipt, name)
    if misstated:
        return misstated
    listed = {file.path for file in receipt.files} | {RECEIPT}
    unlisted = sorted({str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - listed)
    foreign = [f"{path}: is not in the receipt" for path in unlisted]
    return check_files(folder, receipt, at_once) + foreign + _exchanged(layout, receipt)


def wrong_receipt(receipt: Receipt, name: str) -> list[str]:
    """What is wrong with the receipt itself: it speaks of something else, or was changed after it was sealed."""
    if receipt.kind != "checkpoint" or receipt.name != name:
        return [f"its receipt is that of the {receipt.kind} {receipt.name}"]
    if receipt.sealed != (receipt.digest if "format" in receipt.facts else None):
        return ["its receipt was changed after it was sealed"]
    return []


def _exchanged(layout: RunLayout, receipt: Receipt) -> list[str]:
    """Checkpoints that went on from another one of this name: then this is not what it was. Each names its parent's digest."""
    children = [other for other in receipts_in(layout.checkpoints) if other.facts.get("parent") == receipt.name]
    return [f"{child.name} went on from another {receipt.name}" for child in children if child.inputs.get("parent") != receipt.digest]


def set_bad_aside(layout: RunLayout, start: str | None) -> tuple[Rejected, ...]:
    """Quarantine `start`, where a segment is to begin, if it does not verify, and every checkpoint without a readable receipt.

    Call it before each launch, holding the lease. Nothing came back: launch. Else append a `CheckpointQuarantined`
    for each and decide anew.
    """
    unreadable = [path.name for path in _folders(layout) if find_receipt(path / RECEIPT) is None]
    suspects = sorted({*unreadable, *([start] if start is not None else [])})
    rejected = [Rejected(name, "; ".join(wrong)) for name in suspects if (wrong := verify(layout, name, _AT_ONCE))]
    for checkpoint in rejected:
        quarantine(layout, checkpoint.name)
    return tuple(rejected)


def _folders(layout: RunLayout) -> list[Path]:
    if not layout.checkpoints.is_dir():
        return []
    return [path for path in layout.checkpoints.iterdir() if path.is_dir() and not path.name.startswith(".")]


def quarantine(layout: RunLayout, name: str) -> None:
    """Move the checkpoint and what was made of it into a case of their own, beside those that were quarantined under its name before."""
    if not layout.checkpoint(name).exists():
        return
    layout.quarantine.mkdir(parents=True, exist_ok=True)
    number = sum(path.name.partition("-")[0] == name for path in layout.quarantine.iterdir())
    set_aside(layout, layout.quarantine / (f"{name}-{number + 1}" if number else name), name)
    sync_folder(layout.quarantine)
