"""What a checkpoint is published with, so that anybody can go on from it and say which tokens it has seen.

Beside the weights: the training state (where the recipe publishes it), the data chunks since the published checkpoint
before, with their index and licence, and the history: the ledger and the step records as they stood when the
checkpoint was saved. All of it is what the receipts list; the same checkpoint gives the same bytes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k2.publish.card import describe_data
from k2.publish.failure import PublishRefused
from k2.publish.parcel import Item, item_from_file, items_from_output
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout, checkpoint_name
from k2.run.ledger import AttemptStarted, Fact, read_facts
from k2.run.plan import is_published
from k2.run.receipt import RECEIPT, Receipt, find_receipt, read_receipt
from k2.run.records import parse_record

STATE, DATA, HISTORY, SUITE = "training", "data", "history", "suite"  # folders of a published checkpoint
RECEIPTS = "receipts"
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Subject:
    """The checkpoint that is published, and where files may be written that go with it."""

    recipe: Recipe
    layout: RunLayout
    checkpoint: Receipt
    staging: Path


def accompanying_items(subject: Subject) -> list[Item]:
    """Everything that goes with the export and the scores."""
    publishing = subject.recipe.publishing
    return [
        *(_state(subject) if publishing.state else ()),
        *(_data(subject) if publishing.data else ()),
        *_suite(subject),
        *_tokenizer(subject),
        *_history(subject),
    ]


def chunks_published_with(recipe: Recipe, layout: RunLayout, checkpoint: Receipt) -> list[int]:
    """The stage's chunks that were trained after the last checkpoint that is published before this one, in that order."""
    stage, number = checkpoint.facts["stage"], _number(checkpoint.name)
    first = number
    while first - 1 > recipe.first_checkpoint_number(stage) and not is_published(recipe, stage, first - 1):
        first -= 1
    receipts = [read_receipt(layout.checkpoint(checkpoint_name(k))) for k in range(first, number)]
    return [receipt.facts["chunk"] for receipt in (*receipts, checkpoint)]


def _state(subject: Subject) -> Iterator[Item]:
    folder = subject.layout.checkpoint(subject.checkpoint.name)
    yield from items_from_output(folder, subject.checkpoint, f"{STATE}/")


def _data(subject: Subject) -> Iterator[Item]:
    layout, stage = subject.layout, subject.checkpoint.facts["stage"]
    chunks = chunks_published_with(subject.recipe, layout, subject.checkpoint)
    for chunk in chunks:
        rows = layout.chunk(stage, chunk)
        receipt = read_receipt(rows.with_suffix(".json"))
        for file in receipt.files:
            yield Item(f"{DATA}/{stage}/{file.path}", rows.parent / file.path, file.bytes, file.sha256)
        yield item_from_file(f"{DATA}/{stage}/{rows.stem}.json", rows.with_suffix(".json"))
    words = subject.staging / "DATA.md"
    words.write_text(describe_data(subject.recipe, subject.checkpoint, chunks), "utf-8")
    yield item_from_file(f"{DATA}/README.md", words)


def _suite(subject: Subject) -> Iterator[Item]:
    folder = subject.layout.suite(subject.recipe.evaluation.suite)
    receipt = find_receipt(folder)
    if receipt is not None:
        yield from items_from_output(folder, receipt, f"{SUITE}/")
        yield item_from_file(f"{RECEIPTS}/{SUITE}.json", folder / RECEIPT)


def _tokenizer(subject: Subject) -> Iterator[Item]:
    folder = subject.layout.tokenizer
    receipt = find_receipt(folder)
    if receipt is not None:
        yield from items_from_output(folder, receipt, f"{TOKENIZER}/")
        yield item_from_file(f"{RECEIPTS}/{TOKENIZER}.json", folder / RECEIPT)


def _history(subject: Subject) -> Iterator[Item]:
    """The ledger up to the launch that saved the checkpoint, and the records up to its step."""
    head = subject.checkpoint.facts.get("order_head")
    if head is None:
        return
    ledger = subject.staging / "ledger.jsonl"
    ledger.write_bytes(b"".join(_lines_up_to(subject.layout.ledger, head)))
    yield item_from_file(f"{HISTORY}/ledger.jsonl", ledger)
    for attempt in attempts(read_facts(ledger)):
        source = subject.layout.metrics(attempt.stage, attempt.attempt)
        if source.is_file():
            records = subject.staging / f"{attempt.stage}-{source.name}"
            last_step = subject.checkpoint.facts["step"] if attempt.attempt == subject.checkpoint.facts["attempt"] else None
            records.write_bytes(b"".join(_records_up_to(source, last_step)))
            yield item_from_file(f"{HISTORY}/metrics/{attempt.stage}/{source.name}", records)


def attempts(facts: list[Fact]) -> list[AttemptStarted]:
    """The attempts that a ledger tells of."""
    return [fact for fact in facts if isinstance(fact, AttemptStarted)]


def _lines_up_to(ledger: Path, head: str) -> Iterator[bytes]:
    for line in ledger.read_bytes().splitlines(keepends=True):
        yield line
        if hashlib.sha256(line.rstrip(b"\n")).hexdigest() == head:
            return
    raise PublishRefused(
        f"{ledger} does not hold the line {head[:12]} that the checkpoint was trained under; restore the ledger from a copy"
    )


def _records_up_to(metrics: Path, last_step: int | None) -> Iterator[bytes]:
    """Whole records, those of later steps left out. What an attempt that has ended wrote does not change any more."""
    for line in metrics.read_bytes().splitlines(keepends=True):
        record = parse_record(line)
        if record is not None and (last_step is None or record.step <= last_step):
            yield line


def _number(checkpoint: str) -> int:
    return int(checkpoint.removeprefix("ckpt_"))
