"""Publish a checkpoint: pack what its receipts list, deliver it to every target, and only then say that it is so.

Enters: a checkpoint that is exported, and scored where the recipe owes it scores. Leaves: the receipt at
`layout.published(name)`. When one target fails the others are still served, and no receipt is written.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from k2.publish.accompany import Subject, accompanying_items
from k2.publish.card import Described, render_card
from k2.publish.deliver import Delivered
from k2.publish.failure import PublishFailed, PublishRefused
from k2.publish.folder import inspect_folder, publish_to_folder
from k2.publish.hub import inspect_hub, publish_to_hub
from k2.publish.hub_folder import add_to_hub
from k2.publish.parcel import Item, Parcel, digests_of, item_from_file, items_from_output
from k2.publish.s3 import inspect_s3, publish_to_s3
from k2.publish.target import FolderTarget, HubTarget, S3Target, Target
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout
from k2.run.plan import duties_of
from k2.run.receipt import RECEIPT, BrokenOutput, Receipt, commit_receipt_only, find_receipt, now, read_receipt, write_receipt
from k2.run.setting_aside import digests_aside


def publish_checkpoint(recipe: Recipe, layout: RunLayout, name: str, targets: Sequence[Target]) -> Receipt:
    """Publish one checkpoint to every target. `PublishFailed` when one of them could not be served or must not be."""
    with tempfile.TemporaryDirectory(prefix="k2-publish-") as staging:
        parcel = pack_checkpoint(recipe, layout, name, Path(staging))
        delivered = deliver_to_all(parcel, targets)
    inputs = {key: input_digest for key, input_digest in parcel.receipt.inputs.items() if key != "chunks"}
    receipt = Receipt(
        kind="published", name=name, recipe=digest(recipe), made_at=now(), inputs=inputs, facts={"targets": claims(delivered)}
    )
    return _commit(layout.published(name), receipt)


def inspect_checkpoint(recipe: Recipe, layout: RunLayout, name: str, targets: Sequence[Target]) -> list[str]:
    """What is wrong with a published checkpoint at its targets, one line each. Sends and changes nothing."""
    with tempfile.TemporaryDirectory(prefix="k2-publish-") as staging:
        parcel = pack_checkpoint(recipe, layout, name, Path(staging))
        return [line for target in targets for line in _inspect(target, parcel)]


def pack_checkpoint(recipe: Recipe, layout: RunLayout, name: str, staging: Path) -> Parcel:
    """Everything that is published for a checkpoint: export, scores, receipts, recipe and card. Written files go to `staging`."""
    described = _describe(recipe, layout, name)
    card = staging / "README.md"
    card.write_text(render_card(described), "utf-8")
    items = [
        *items_from_output(layout.export(name), described.export),
        *([] if described.scores is None else items_from_output(layout.scores(name), described.scores, "scores/")),
        *_receipts(layout, name, described),
        *accompanying_items(Subject(recipe, layout, described.checkpoint, staging)),
        item_from_file("recipe.toml", layout.recipe),
        item_from_file("README.md", card),
    ]
    return Parcel(name, tuple(sorted(items, key=lambda item: item.path)), _receipt(described, items), digests_aside(layout))


def deliver_to_all(parcel: Parcel, targets: Sequence[Target]) -> list[Delivered]:
    """Deliver to each target; one that fails keeps the others from nothing, and is raised at the end."""
    delivered, failures = [], []
    for target in targets:
        try:
            delivered.append(_publish(target, parcel))
        except PublishFailed as failure:
            failures.append(failure)
    if failures:
        final = all(isinstance(failure, PublishRefused) for failure in failures)
        raise (PublishRefused if final else PublishFailed)(" | ".join(map(str, failures))) from None
    return delivered


def claims(delivered: Sequence[Delivered]) -> list[dict[str, object]]:
    """The deliveries as a receipt states them."""
    return [{"target": d.target, "files": d.files, "bytes": d.bytes, "verified": True} for d in delivered]


def _publish(target: Target, parcel: Parcel) -> Delivered:
    match target:
        case FolderTarget():
            return publish_to_folder(target, parcel)
        case S3Target():
            return publish_to_s3(target, parcel)
        case HubTarget():
            return publish_to_hub(target, parcel) if parcel.folder is None else add_to_hub(target, parcel)


def _inspect(target: Target, parcel: Parcel) -> list[str]:
    match target:
        case FolderTarget():
            return inspect_folder(target, parcel)
        case S3Target():
            return inspect_s3(target, parcel)
        case HubTarget():
            return inspect_hub(target, parcel)


def _describe(recipe: Recipe, layout: RunLayout, name: str) -> Described:
    """The checkpoint's receipts, each belonging to the one before it."""
    try:
        checkpoint, export, chunks = (
            read_receipt(layout.checkpoint(name)),
            read_receipt(layout.export(name)),
            read_receipt(layout.all_chunks),
        )
    except BrokenOutput as error:
        raise PublishRefused(f"{name} cannot be published yet: {error}") from error
    scores = find_receipt(layout.scores(name))
    owed = {held.name: duties_of(recipe, held) for held in held_checkpoints(recipe, layout)}
    if scores is None and "evaluated" in owed.get(name, ()):
        raise PublishRefused(f"{name} is owed its scores before it is published, as they are published with it; run k2 eval for it first")
    _same_recipe(digest(recipe), checkpoint, export, *([scores] if scores else []))
    _follows(export, "checkpoint", checkpoint)
    if scores is not None:
        _follows(scores, "export", export)
    return Described(recipe, layout.name, checkpoint, export, scores, chunks)


def _same_recipe(expected: str, *receipts: Receipt) -> None:
    for receipt in receipts:
        if receipt.recipe != expected:
            raise PublishRefused(
                f"the {receipt.kind} of {receipt.name} was made by the recipe {receipt.recipe[:12]}, not by this run's {expected[:12]}; "
                "publish it with the recipe that made it"
            )


def _follows(receipt: Receipt, input_name: str, earlier: Receipt) -> None:
    """`receipt` must have been made from `earlier` as that is now."""
    if receipt.inputs.get(input_name) != earlier.digest:
        raise PublishRefused(
            f"the {receipt.kind} of {receipt.name} was not made from its present {earlier.kind} ({earlier.digest[:12]}); "
            f"remove the {receipt.kind} folder, so that it is made again"
        )


def _receipts(layout: RunLayout, name: str, described: Described) -> list[Item]:
    """The receipts that lead from the published files back to the data."""
    folders = {"checkpoint": layout.checkpoint(name), "export": layout.export(name), "chunks": layout.all_chunks}
    if described.scores is not None:
        folders["scores"] = layout.scores(name)
    return [item_from_file(f"receipts/{kind}.json", folder / RECEIPT) for kind, folder in folders.items()]


def _receipt(described: Described, items: list[Item]) -> Receipt:
    """The receipt over the published files. Its time is that of its newest input, so that publishing again writes the same bytes."""
    parts = {"checkpoint": described.checkpoint, "export": described.export, "scores": described.scores, "chunks": described.chunks}
    made = {kind: part for kind, part in parts.items() if part is not None}
    facts = {key: described.checkpoint.facts[key] for key in ("stage", "step", "tokens")}
    return Receipt(
        kind="checkpoint",
        name=described.checkpoint.name,
        recipe=described.checkpoint.recipe,
        made_at=max(part.made_at for part in made.values()),
        inputs={kind: part.digest for kind, part in made.items()},
        facts={"run": described.run} | facts,
        files=digests_of(items),
    )


def _commit(folder: Path, receipt: Receipt) -> Receipt:
    """Write the receipt; one that stands keeps the targets it names, and gains those of this one."""
    standing = find_receipt(folder)
    if standing is None:
        return commit_receipt_only(folder, receipt)
    if standing.inputs != receipt.inputs:
        raise PublishRefused(f"{folder} says that another {receipt.name} was published; move it away if that one no longer counts")
    named = {claim["target"]: claim for claim in (*standing.facts["targets"], *receipt.facts["targets"])}
    merged = receipt.model_copy(update={"facts": {"targets": list(named.values())}})
    return standing if merged.digest == standing.digest else write_receipt(folder / RECEIPT, merged)
