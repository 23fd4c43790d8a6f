"""Setting a checkpoint aside: it goes out of the run's way together with everything that was made of it.

What leaves is a folder with `checkpoints/<name>`, `exports/<name>`, `scores/<name>` and so on: that of the incident that
abandoned it, or a case of the quarantine. A later checkpoint of the same name then finds no duty settled.
"""

from pathlib import Path

from k2.run.durable import sync_folder
from k2.run.holdings import DUTIES, duty_folder
from k2.run.layout import RunLayout
from k2.run.receipt import find_receipt


def set_aside(layout: RunLayout, folder: Path, name: str) -> None:
    """Move the checkpoint, and before it what its duties left, into `folder`. What an earlier call moved stays there."""
    for duty in DUTIES:
        settled = duty_folder(layout, name, duty)
        _move(settled, folder / settled.parent.name / name)
    _move(layout.checkpoint(name), folder / layout.checkpoints.name / name)


def digests_aside(layout: RunLayout) -> frozenset[str]:
    """The digests of all checkpoints that were ever set aside. A torn receipt's is told by the export that was made from it."""
    folders = [folder for place in (layout.incidents, layout.quarantine) for folder in place.glob("*")]
    checkpoints = [(path.name, find_receipt(path)) for folder in folders for path in folder.glob(f"{layout.checkpoints.name}/*")]
    exports = [find_receipt(path) for folder in folders for path in folder.glob(f"{layout.exports.name}/*")]
    own = {receipt.digest for name, receipt in checkpoints if receipt is not None and receipt.name == name}
    return frozenset(own | {export.inputs["checkpoint"] for export in exports if export is not None and "checkpoint" in export.inputs})


def _move(source: Path, target: Path) -> None:
    """Rename, durably. Done already when the target is there, and nothing to do when there is no source."""
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)
