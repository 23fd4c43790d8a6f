"""Which checkpoint may be started from, and which may go. Torch-free: digests and receipts decide.

A checkpoint is verified before every load: every file is digested again. What does not verify is moved to the
quarantine with all that was made of it; the driver records that and asks `next_action` again, which then names the next older one.
"""

from dataclasses import dataclass
from pathlib import Path

from k2.recipe.schema import Recipe, Stage
from k2.run.durable import sync_folder
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, check_files, find_receipt, read_receipt
from k2.run.setting_aside import set_aside


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that was set aside, and what was wrong with it."""

    name: str
    why: str


def verify(layout: RunLayout, name: str) -> list[str]:
    """What is wrong with the checkpoint, one line each; none when every byte agrees with its receipt."""
    folder = layout.checkpoint(name)
    try:
        receipt = read_receipt(folder / RECEIPT)
    except ValueError as error:
        return [str(error)]
    if receipt.kind != "checkpoint" or receipt.name != name:
        return [f"its receipt is that of the {receipt.kind} {receipt.name}"]
    listed = {file.path for file in receipt.files} | {RECEIPT}
    unlisted = sorted({str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - listed)
    return check_files(folder, receipt) + [f"{path}: is not in the receipt" for path in unlisted]


def set_bad_aside(layout: RunLayout, start: str | None) -> tuple[Rejected, ...]:
    """Quarantine `start`, where a segment is to begin, if it does not verify, and every checkpoint without a readable receipt.

    Call it before each launch, holding the lease. Nothing came back: launch. Else append a `CheckpointQuarantined`
    for each and decide anew.
    """
    unreadable = [path.name for path in _folders(layout) if find_receipt(path / RECEIPT) is None]
    suspects = sorted({*unreadable, *([start] if start is not None else [])})
    rejected = [Rejected(name, "; ".join(wrong)) for name in suspects if (wrong := verify(layout, name))]
    for checkpoint in rejected:
        quarantine(layout, checkpoint.name)
    return tuple(rejected)


def prunable(recipe: Recipe, holdings: Holdings) -> tuple[str, ...]:
    """Rescue and stop checkpoints so old that no rollback can want them. Chunk checkpoints never are.

    Kept are those of the last two chunks and twice the detector's reach (persistence and margin) before them.
    """
    newest = max((_run_step(recipe, c) for c in holdings.checkpoints), default=0)

    def too_old(checkpoint: HeldCheckpoint) -> bool:
        return newest - _run_step(recipe, checkpoint) > _kept_steps(recipe, recipe.stage(checkpoint.stage))

    return tuple(c.name for c in holdings.checkpoints if c.kind != "chunk" and too_old(c))


def _kept_steps(recipe: Recipe, stage: Stage) -> int:
    return 2 * stage.steps_per_chunk + 2 * (recipe.spikes.persistence_steps + recipe.spikes.margin_steps)


def _run_step(recipe: Recipe, checkpoint: HeldCheckpoint) -> int:
    """The checkpoint's step, counted on through the stages."""
    return sum(stage.steps for stage in recipe.stages_before(checkpoint.stage)) + checkpoint.step


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
