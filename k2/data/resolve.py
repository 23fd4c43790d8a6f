"""Resolving: what of a subset's shards is its stream.

Enters the finished shards of a subset; leaves `tokens/<subset>/stream/`: `intervals.npy` (runs of documents, shard by
shard, that are trained on), `ids.npy` (the way from an id to its document) and a receipt. Copies of earlier documents are
left out where the recipe says so, and a cap ends the stream, cutting its last document. Only the shards' small columns
are read, one shard or one slice of the ids at a time: memory does not grow with the subset.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from k2.data.duplicates import first_copies, write_ids
from k2.data.encode import EncodedShard
from k2.data.shard import FORMS, ArrayWriter, Shard, open_shard
from k2.recipe.data import Subset
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import UNFINISHED, durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, now, read_receipt, seal_folder

INTERVALS, IDS = "intervals.npy", "ids.npy"
# A run of documents of one shard: it begins in the stream at `token` and `document`, in the shard at `first_token` and
# `first_document`. The last entry is the stream's end.
INTERVAL = np.dtype([("token", "<i8"), ("document", "<i8"), ("shard", "<i8"), ("first_token", "<i8"), ("first_document", "<i8")])


@dataclass(frozen=True)
class Cut:
    """Where a cap ends the stream: at `document` of `shard`, of which `limit_bytes` still fit. `file` and `position` say where it lies."""

    shard: int
    document: int
    limit_bytes: int
    file: int
    position: int


def kept_bytes(layout: RunLayout, subset: Subset, shards: Sequence[EncodedShard]) -> int:
    """Bytes of text in these shards that training may read, copies left out."""
    if subset.duplicates == "keep":
        return sum(shard.facts.bytes for shard in shards)
    return sum(int(shard.documents["text_bytes"][kept].sum(dtype=np.int64)) for shard, kept in _kept(layout, subset, shards))


def find_cut(layout: RunLayout, subset: Subset, shards: Sequence[EncodedShard]) -> Cut | None:
    """Where the subset's cap ends the stream; None when there is no cap or no more text than it allows."""
    left = subset.max_bytes
    if left is None:
        return None
    for number, (shard, kept) in enumerate(_kept(layout, subset, shards)):
        documents = np.flatnonzero(kept)
        ends = np.cumsum(shard.documents["text_bytes"][documents], dtype=np.int64)
        fit = int(np.searchsorted(ends, left, side="right"))
        left -= int(ends[fit - 1]) if fit else 0
        if fit < len(documents):
            record = shard.documents[documents[fit]]
            return Cut(number, int(documents[fit]), left, int(record["file"]), int(record["position"]))
    return None


def write_stream(
    recipe: Recipe, layout: RunLayout, subset: Subset, shards: Sequence[EncodedShard], cut: Cut | None, end: EncodedShard | None
) -> Receipt:
    """Commit the subset's stream: the shards' first copies up to the cut, and `end`, the shard of the document that was cut."""
    used = [*shards, *([end] if end is not None else [])]
    forms, bytes_, copies = np.zeros(len(FORMS), np.int64), 0, 0
    with durable_folder(layout.stream(subset.name)) as folder:
        with ArrayWriter(folder / INTERVALS, INTERVAL) as intervals:
            token = document = 0
            for number, shard, kept in _trained(layout, subset, shards, cut, end):
                runs = _runs(number, shard, kept, token, document)
                intervals.extend(runs)
                token, document = token + int(_sizes(shard)[: len(kept)][kept].sum()), document + int(kept.sum())
                records = shard.documents[: len(kept)][kept]
                forms += np.bincount(records["form"], minlength=len(FORMS))
                bytes_ += int(records["text_bytes"].sum(dtype=np.int64))
                copies += len(kept) - int(kept.sum())
            intervals.add((token, document, len(used), 0, 0))
        write_ids(layout, subset.name, [shard.facts.documents for shard in used], folder / IDS)
        facts = {
            "shards": len(used),
            "documents": document,
            "tokens": token,
            "bytes": bytes_,
            "forms": {form: int(count) for form, count in zip(FORMS, forms, strict=True) if count},
            "duplicates": copies,
            "dropped": dict(sum((Counter(shard.facts.dropped) for shard in shards), Counter[str]())),
            "cut": None if cut is None else asdict(cut),
        }
        inputs = {"sources": read_receipt(layout.sources).digest, "tokenizer": read_receipt(layout.tokenizer).digest}
        inputs |= {f"{subset.name}/{shard.shard:05d}": shard.digest for shard in used}
        receipt = Receipt(kind="tokens", name=subset.name, recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
        return seal_folder(folder, receipt)


def _trained(
    layout: RunLayout, subset: Subset, shards: Sequence[EncodedShard], cut: Cut | None, end: EncodedShard | None
) -> Iterator[tuple[int, Shard, npt.NDArray[np.bool_]]]:
    """The shards of the stream, each with a mask over its documents that ends where the cap does."""
    for number, (shard, kept) in enumerate(_kept(layout, subset, shards)):
        if cut is None or number < cut.shard:
            yield number, shard, kept
        elif number == cut.shard:
            yield number, shard, kept[: cut.document]
    if end is not None:
        yield end.shard, open_shard(layout.shard(subset.name, end.shard)), np.ones(end.facts.documents, np.bool_)


def _kept(layout: RunLayout, subset: Subset, shards: Sequence[EncodedShard]) -> Iterator[tuple[Shard, npt.NDArray[np.bool_]]]:
    """The shards, each with a mask over its documents: False for a copy that is to be left out."""
    documents = [shard.facts.documents for shard in shards]
    if not documents:
        return
    with TemporaryDirectory(dir=layout.tokens / subset.name, prefix=UNFINISHED) as scratch:
        mask = first_copies(layout, subset.name, documents, Path(scratch) / "mask") if subset.duplicates == "drop" else None
        for shard, (begin, end) in zip(shards, pairwise(accumulate(documents, initial=0)), strict=True):
            opened = open_shard(layout.shard(subset.name, shard.shard))
            yield opened, np.ones(end - begin, np.bool_) if mask is None else np.array(mask[begin:end])


def _runs(number: int, shard: Shard, kept: npt.NDArray[np.bool_], token: int, document: int) -> npt.NDArray[np.void]:
    """The runs of kept documents of one shard, whose first begins at that token and document of the stream."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
    firsts, beyond = edges[::2], edges[1::2]
    runs = np.empty(len(firsts), INTERVAL)
    runs["shard"], runs["first_document"], runs["first_token"] = number, firsts, shard.begins(firsts)
    tokens = shard.ends[beyond - 1] - runs["first_token"] if len(firsts) else np.zeros(0, np.int64)
    runs["token"] = token + np.cumsum(tokens) - tokens
    runs["document"] = document + np.cumsum(beyond - firsts) - (beyond - firsts)
    return runs


def _sizes(shard: Shard) -> npt.NDArray[np.int64]:
    """Tokens of each document."""
    return np.diff(shard.ends, prepend=0)
