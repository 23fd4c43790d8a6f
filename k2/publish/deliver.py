"""Deliver a parcel into a store of named objects, a folder or a bucket, so that it is there whole or not at all.

Every object is compared before and after it is sent; the receipt is created last and once. Sending again compares
and sends nothing that is there already, so that a delivery broken at any point is mended by repeating it.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import ValidationError

from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.parcel import Item, Parcel
from k2.run.receipt import Receipt

NUM_CARRIERS = 8
SMALL_BYTES = 4 << 20  # eight of them may be in memory
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """What now lies at a target, and how much of it had to be sent."""

    target: str
    files: int
    bytes: int
    sent: int


class Store(Protocol):
    """Named objects. `path` is relative to the target. Different paths may be written by several threads at a time."""

    def read(self, path: str) -> bytes | None:
        """The content of a small object, None when there is none."""

    def differs(self, path: str, item: Item) -> str | None:
        """How what is there differs from the item; None when it is the same."""

    def send(self, path: str, item: Item) -> None:
        """Write the item durably, over whatever is there."""

    def create(self, path: str, content: bytes) -> bool:
        """Write an object that must not exist yet; False when it does."""

    def remove(self, path: str) -> None:
        """Remove an object, if there is one."""


def deliver(store: Store, parcel: Parcel, target: str) -> Delivered:
    """Bring the parcel into the store and commit it. `PublishRefused` when another one stands under its name."""
    content = store.read(parcel.receipt_path)
    if content is not None and judge(content, parcel, target) == "abandoned":
        _retract(store, parcel, content)
    sent = _bring_all(store, parcel, target)
    store.create(parcel.receipt_path, parcel.receipt_content)
    # read back whoever created it: Swift checks the condition and writes apart, so that of simultaneous creators the last one stands
    standing = store.read(parcel.receipt_path)
    if standing is None or judge(standing, parcel, target) != "same":
        raise PublishFailed(
            f"{target}/{parcel.receipt_path} changed while {parcel.name} was being published; stop the other publisher, then try again"
        )
    for item in parcel.living:
        _bring(store, parcel.path_of(item), item, target)
    delivered = Delivered(target, len(parcel.items), parcel.total_bytes, len(sent))
    log.info(
        "%s -> %s: sent %d of %d files, %d of %d bytes",
        parcel.name,
        target,
        len(sent),
        delivered.files,
        sum(i.bytes for i in sent),
        parcel.total_bytes,
    )
    return delivered


def inspect(store: Store, parcel: Parcel, target: str) -> list[str]:
    """What is wrong with the parcel in the store, one line each. Sends nothing."""
    content = store.read(parcel.receipt_path)
    if content is None:
        return [f"{target}/{parcel.name}: has no receipt, so it was never published"]
    try:
        if judge(content, parcel, target) == "abandoned":
            return [f"{target}/{parcel.name}: is a checkpoint that was set aside since"]
    except PublishRefused as refusal:
        return [str(refusal)]
    found = {parcel.path_of(item): store.differs(parcel.path_of(item), item) for item in parcel.items}
    return [f"{target}/{path}: {wrong}" for path, wrong in found.items() if wrong is not None]


def judge(content: bytes, parcel: Parcel, target: str) -> Literal["same", "abandoned"]:
    """What the receipt that stands under the parcel's name means for it. `PublishRefused` when the name is another's."""
    try:
        standing = Receipt.model_validate_json(content)
    except ValidationError as error:
        raise PublishRefused(f"{target}/{parcel.receipt_path} was not written by k2; give the run a target of its own") from error
    if standing.digest == parcel.receipt.digest:
        return "same"
    if standing.inputs.get("checkpoint") in parcel.abandoned:
        return "abandoned"
    raise PublishRefused(
        f"{target} already holds another {parcel.name} ({standing.digest[:12]} of {standing.made_at}; ours {parcel.receipt.digest[:12]}), "
        "and what is published is never overwritten; give the run a target of its own, for instance with {run} in it"
    )


def _bring_all(store: Store, parcel: Parcel, target: str) -> list[Item]:
    """Bring every item; those that had to be sent. Small ones eight at a time, as each is mostly waiting; large ones in turn, in parts."""
    small = [item for item in parcel.items if item.bytes <= SMALL_BYTES]
    large = [item for item in parcel.items if item.bytes > SMALL_BYTES]
    with ThreadPoolExecutor(NUM_CARRIERS, "carrier") as carriers:
        # with the context of this thread: credentials may be lent to it
        brought = [carriers.submit(copy_context().run, _bring, store, parcel.path_of(item), item, target) for item in small]
        try:
            sent = [item for item, was_sent in zip(small, brought, strict=True) if was_sent.result()]
        except BaseException:
            carriers.shutdown(wait=False, cancel_futures=True)
            raise
    return sent + [item for item in large if _bring(store, parcel.path_of(item), item, target)]


def _bring(store: Store, path: str, item: Item, target: str) -> bool:
    """Make sure that the item is there; True when it had to be sent."""
    before = store.differs(path, item)
    if before is None:
        return False
    log.debug("%s/%s %s: sending %d bytes", target, path, before, item.bytes)
    store.send(path, item)
    after = store.differs(path, item)
    if after is not None:
        raise PublishFailed(
            f"{target}/{path} {after} after it was sent; nothing was published. Try again, and look at the store if it stays so"
        )
    return True


def _retract(store: Store, parcel: Parcel, content: bytes) -> None:
    """Unpublish what was set aside since: its receipt is kept under another name, and the name is free."""
    digest = Receipt.model_validate_json(content).digest
    log.warning("%s as published before was set aside since; its receipt moves to retracted/", parcel.name)
    store.create(f"retracted/{parcel.name}-{digest[:12]}.json", content)
    store.remove(parcel.receipt_path)
