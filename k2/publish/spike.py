"""Publish an incident as K2 published its spikes: a folder of evidence, and a model of each checkpoint that tells it.

Enters: a closed incident whose evidence is complete. Leaves, at every target, `spike_NNN` (records, picture, rows, summary)
and `spike_NNN_pre`, `_verdict`, `_peak` (Hugging Face models) beside the run's own `ckpt_NNN`, and a receipt in the incident's
folder. K2 did so by hand, as `spike_ckpt_160` and the like (its repositories K2-Spike-1 and K2-Spike-2).
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from k2.publish.parcel import Item, Parcel, digests_of, item_from_file, items_from_output
from k2.publish.target import Target
from k2.publish.upload import claims, deliver_to_all
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.layout import KeptLayout
from k2.run.receipt import Receipt, commit_receipt_only, find_receipt, now, read_receipt

_ROWS = "rows.jsonl"


def publish_incident(recipe: Recipe, layout: KeptLayout, targets: Sequence[Target]) -> Receipt:
    """Publish the evidence to every target, once; the receipt. `PublishFailed` when one of them could not be served."""
    done = find_receipt(layout.published_evidence)
    if done is not None:
        return done
    incident = read_receipt(layout.incident(layout.number))
    delivered = []
    with tempfile.TemporaryDirectory(prefix="k2-spike-") as staging:
        for parcel in _parcels(recipe, layout, incident, Path(staging)):
            delivered += deliver_to_all(parcel, targets)
    receipt = Receipt(
        kind="published_evidence",
        name=incident.name,
        recipe=digest(recipe),
        made_at=now(),
        inputs={"incident": incident.digest},
        facts={"targets": claims(delivered)},
    )
    return commit_receipt_only(layout.published_evidence, receipt)


def _parcels(recipe: Recipe, layout: KeptLayout, incident: Receipt, staging: Path) -> list[Parcel]:
    """The models first, the evidence that names them last. A part that could not be exported is not published."""
    models = [
        _model(recipe, layout, incident, part, name, staging)
        for part, name in incident.facts["kept"].items()
        if find_receipt(layout.export(name)) is not None
    ]
    return [*models, _evidence(layout, incident)]


def _evidence(layout: KeptLayout, incident: Receipt) -> Parcel:
    folder = layout.incident(layout.number)
    items = [item_from_file(file.path, folder / file.path) for file in incident.files]
    items += [item_from_file(_ROWS, layout.window / _ROWS)] if (layout.window / _ROWS).is_file() else []
    return _parcel(f"spike_{incident.name}", items, incident)


def _model(recipe: Recipe, layout: KeptLayout, incident: Receipt, part: str, name: str, staging: Path) -> Parcel:
    export = read_receipt(layout.export(name))
    card = staging / f"{part}.md"
    card.write_text(_card(recipe, incident, part, layout), "utf-8")
    items = [
        *items_from_output(layout.export(name), export),
        item_from_file("README.md", card),
        item_from_file("receipts/checkpoint.json", layout.checkpoint(name) / "receipt.json"),
        item_from_file("receipts/export.json", layout.export(name) / "receipt.json"),
    ]
    return _parcel(f"spike_{incident.name}_{part}", items, incident)


def _parcel(name: str, items: list[Item], incident: Receipt) -> Parcel:
    """Its time is the incident's, so that publishing again writes the same bytes."""
    files = digests_of(items)
    receipt = Receipt(
        kind="spike", name=name, recipe=incident.recipe, made_at=incident.made_at, inputs={"incident": incident.digest}, files=files
    )
    return Parcel(name, tuple(items), receipt)


def _card(recipe: Recipe, incident: Receipt, part: str, layout: KeptLayout) -> str:
    told = {
        "pre": "before the spike: training went on from here",
        "verdict": "when the verdict had fallen",
        "peak": "near its highest loss",
    }
    facts = incident.facts
    return (
        f"---\nlicense: {recipe.publishing.licence}\ntags: [loss-spike]\n---\n"
        f"# {layout.name}, spike {incident.name}: the model {told[part]}\n\n"
        f"A {facts['kind']} in {facts['stage']}: onset at step {facts['onset_step']:,}, verdict at step {facts['verdict_step']:,}. "
        f"It is kept for research and is no checkpoint of the run. Records, picture and rows: `spike_{incident.name}`.\n"
    )
