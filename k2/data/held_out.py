"""What is held out: the documents kept from training, collected from all shards for the evaluation.

Enters the streams' receipts; leaves `held_out/documents.jsonl`, each text once, in the order of the subsets. A document
that lies beyond its subset's cap is not among them: the cap ends the subset for training and evaluation alike.
"""

import json
from collections.abc import Iterator, Mapping

from k2.data.document import Document
from k2.data.shard import HELD_OUT
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, seal_folder


def collect_held_out(recipe: Recipe, layout: RunLayout, streams: Mapping[str, Receipt]) -> Receipt:
    """Commit the held-out documents, or give the receipt of the earlier time."""
    target = layout.held_out.parent
    done = find_receipt(target)
    if done is not None:
        return done
    seen: set[str] = set()
    with durable_folder(target) as folder:
        with (folder / layout.held_out.name).open("wb") as lines:
            for subset, receipt in streams.items():
                for document in _of_subset(layout, subset, receipt):
                    if document.id not in seen:
                        lines.write(document.line())
                        seen.add(document.id)
        inputs = {name: receipt.digest for name, receipt in streams.items()}
        facts = {"documents": len(seen)}
        receipt = Receipt(kind="held_out", name="held_out", recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
        return seal_folder(folder, receipt)


def _of_subset(layout: RunLayout, subset: str, receipt: Receipt) -> Iterator[Document]:
    """The subset's held-out documents that stand before its cut."""
    cut, shards = receipt.facts["cut"], receipt.facts["shards"]
    for shard in range(shards if cut is None else cut["shard"] + 1):
        with (layout.shard(subset, shard) / HELD_OUT).open("rb") as lines:
            for line in lines:
                document = json.loads(line)
                before = document.pop("before")
                if cut is None or shard < cut["shard"] or before <= cut["document"]:
                    yield Document(**document)
