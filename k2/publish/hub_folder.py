"""A parcel that adds to a folder, on the Hub: one branch of that name, one commit a parcel.

A checkpoint is a branch of its own and a tag; what people look at grows with every checkpoint, so it lies on one branch, under the
same paths as in a folder. A commit brings files, receipt and living files together, on top of what the branch is.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from k2.publish.deliver import Delivered, judge
from k2.publish.hub import Repository, cannot_publish, connected, differences, receipt_item, stale
from k2.publish.parcel import Item, Parcel
from k2.publish.target import HubTarget
from k2.run.receipt import RECEIPT

log = logging.getLogger(__name__)


def add_to_hub(target: HubTarget, parcel: Parcel) -> Delivered:
    """Bring the parcel into the branch that is named as its folder. `PublishRefused` when another one stands under its name."""
    assert parcel.folder is not None
    with connected(target, cannot_publish(target, parcel)) as repository, tempfile.TemporaryDirectory() as staging:
        repository.api.create_repo(target.repository, exist_ok=True)
        repository.api.create_branch(target.repository, branch=parcel.folder, exist_ok=True)
        sent = _add(repository, parcel, parcel.folder, Path(staging))
    log.info("%s -> %s: sent %d of %d files", parcel.name, target, sent, len(parcel.items))
    return Delivered(str(target), len(parcel.items), parcel.total_bytes, sent)


def _add(repository: Repository, parcel: Parcel, branch: str, staging: Path) -> int:
    """Commit what differs, if anything does, and compare; how many files had to be sent."""
    head = repository.head(branch)
    standing = repository.read(parcel.receipt_path, head)
    wanted = [_placed(parcel, item) for item in (*parcel.items, *parcel.living)]
    if standing is None or judge(standing, parcel, str(repository.target)) == "abandoned":  # the branch's history keeps that one
        wanted.append(receipt_item(parcel, parcel.receipt_path, staging))
    tree = repository.tree(head)
    sent = [item for item in wanted if differences([item], tree)]
    inherited = repository.receipt(head)  # a new branch begins as `main`, which is a checkpoint
    gone = [*stale(inherited, tree, wanted), RECEIPT] if inherited is not None else []
    if sent or gone:
        repository.verify(wanted, repository.change(parcel, sent, gone, branch, head))
    return len(sent)


def _placed(parcel: Parcel, item: Item) -> Item:
    return replace(item, path=parcel.path_of(item))
