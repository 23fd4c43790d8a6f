"""The release: the index of everything that was published (`suites`), with the recipe, the ledger and the report page.

It is put together once, under `layout.release`, delivered like a checkpoint under the name `release`, and its
receipt is written last. Putting it together first keeps a second try from sending another ledger under the same name.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from k2.publish.parcel import Parcel, items_from_output
from k2.publish.suites import describe_suites
from k2.publish.target import Target
from k2.publish.upload import claims, deliver_to_all
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, Receipt, find_receipt, now, read_receipt, seal_folder, write_receipt

NAME = "release"
_INDEX = "release.json"


class ReleasedCheckpoint(BaseModel):
    """One published checkpoint: where it stands, where it lies, and the digests that name it."""

    model_config = ConfigDict(frozen=True)

    name: str
    stage: str
    step: int
    tokens: int
    digests: dict[str, str]
    targets: tuple[str, ...]


class ReleaseIndex(BaseModel):
    """`release.json`: all published checkpoints of a run, in the order they were trained."""

    model_config = ConfigDict(frozen=True)

    run: str
    recipe_name: str
    recipe: str
    checkpoints: tuple[ReleasedCheckpoint, ...]


def publish_release(recipe: Recipe, layout: RunLayout, targets: Sequence[Target]) -> Receipt:
    """Publish the index and what goes with it; leave the receipt at `layout.release`."""
    index = release_index(recipe, layout)
    packed = _pack(recipe, layout, index)
    items = items_from_output(layout.release / "files", packed)
    parcel = Parcel(NAME, tuple(items), packed.model_copy(update={"facts": {"run": layout.name, "checkpoints": len(index.checkpoints)}}))
    facts = {"targets": claims(deliver_to_all(parcel, targets)), "checkpoints": len(index.checkpoints)}
    receipt = Receipt(kind="release", name=layout.name, recipe=digest(recipe), made_at=now(), inputs={"index": packed.digest}, facts=facts)
    return write_receipt(layout.release / RECEIPT, receipt)


def release_index(recipe: Recipe, layout: RunLayout) -> ReleaseIndex:
    """What the receipts say was published."""
    held = [(checkpoint, find_receipt(layout.published(checkpoint.name))) for checkpoint in held_checkpoints(recipe, layout)]
    checkpoints = tuple(
        ReleasedCheckpoint(
            name=checkpoint.name,
            stage=checkpoint.stage,
            step=checkpoint.step,
            tokens=checkpoint.tokens,
            digests=dict(published.inputs),
            targets=tuple(claim["target"] for claim in published.facts["targets"]),
        )
        for checkpoint, published in held
        if published is not None
    )
    return ReleaseIndex(run=layout.name, recipe_name=recipe.name, recipe=digest(recipe), checkpoints=checkpoints)


def _pack(recipe: Recipe, layout: RunLayout, index: ReleaseIndex) -> Receipt:
    """The release's files in one sealed folder: those of an earlier try, unless more was published since."""
    folder, content = layout.release / "files", index.model_dump_json(indent=1) + "\n"
    if find_receipt(folder) is not None and (folder / _INDEX).read_text("utf-8") == content:
        return read_receipt(folder)
    shutil.rmtree(folder, ignore_errors=True)
    with durable_folder(folder) as beside:
        (beside / _INDEX).write_text(content, "utf-8")
        (beside / "README.md").write_text(describe_suites(recipe, layout, index), "utf-8")
        for name, source in _accompanying(layout).items():
            shutil.copyfile(source, beside / name)
        return seal_folder(beside, Receipt(kind="release", name=NAME, recipe=digest(recipe), made_at=now()))


def _accompanying(layout: RunLayout) -> dict[str, Path]:
    named = {layout.recipe.name: layout.recipe, layout.ledger.name: layout.ledger, layout.page.name: layout.published_page}
    return {name: path for name, path in named.items() if path.is_file()}
