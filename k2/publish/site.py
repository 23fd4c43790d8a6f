"""Publish what people look at: the run's page and its galleries, a part more with every checkpoint that is shown.

Enters the receipt of the duty `shown`, which lists the checkpoint's answers. Leaves, at every target, `report/` as the run
directory has it: `report/gallery/<metric>/<shots>/<checkpoint>/<task>.js`, a receipt over them that is written once,
`report/<checkpoint>.json`, and the page and the galleries' index, which change with every checkpoint. On the Hub all of it
is the branch `report`.
"""

from collections.abc import Sequence

from k2.publish.deliver import Delivered
from k2.publish.failure import PublishRefused
from k2.publish.parcel import Item, Parcel, checked_path, item_from_file
from k2.publish.target import Target
from k2.publish.upload import deliver_to_all
from k2.run.holdings import HeldCheckpoint
from k2.run.layout import RunLayout
from k2.run.receipt import FileDigest, Receipt, check_files, find_receipt
from k2.run.setting_aside import digests_aside

FOLDER = "report"
_GALLERY = ("gallery/README.md", "gallery/index.html", "gallery/index.js")


def publish_shown(layout: RunLayout, shown: Receipt, targets: Sequence[Target]) -> list[Delivered]:
    """Bring what one checkpoint added to the galleries, and the page as it is now, to every target."""
    return deliver_to_all(pack_shown(layout, shown), targets)


def refresh_site(layout: RunLayout, checkpoints: Sequence[HeldCheckpoint], targets: Sequence[Target]) -> None:
    """The page and the index as they are now, to every target; and what is still missing there of the newest checkpoint."""
    shown = [receipt for held in checkpoints if (receipt := find_receipt(layout.shown(held.name))) is not None]
    if shown:
        publish_shown(layout, shown[-1], targets)


def pack_shown(layout: RunLayout, shown: Receipt) -> Parcel:
    """What one checkpoint adds. Its receipt says nothing of the page, so that it is the same whenever it is sent."""
    files = tuple(FileDigest.model_validate(file) for file in shown.facts.get("files", ()))  # receipts of before had none
    receipt = shown.model_copy(update={"facts": {"run": layout.name}, "files": files})
    wrong = check_files(layout.report, receipt)
    if wrong:
        raise PublishRefused(
            f"{layout.report} is not what the receipt of {shown.name} says: {'; '.join(wrong[:5])}. Remove {layout.shown(shown.name)}, "
            "so that it is made again"
        )
    items = tuple(Item(checked_path(file.path), layout.report / file.path, file.bytes, file.sha256) for file in files)
    lying = {path: layout.report / path for path in _GALLERY} | {"index.html": layout.published_page}  # last, as it links to the others
    living = tuple(item_from_file(path, source) for path, source in lying.items() if source.is_file())
    return Parcel(f"{FOLDER}/{shown.name}", items, receipt, digests_aside(layout), FOLDER, living)
