"""Encoding: a few pieces of a subset become one shard of token ids, `</s>` after each document.

Enters an `EncodePiece`, a value that any process can take up; leaves the shard's folder, committed with its receipt. What
training may read goes into the tokens, what is held out and what is no document beside them. Nothing here knows of
other pieces: whether a document occurs twice, or lies beyond a cap, is decided later (`resolve`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from k2.data.document import Document, Dropped, Found, cut_to_bytes, document_id, is_held_out
from k2.data.fim import Draw, Form, Ids, arrange, draw, parts
from k2.data.parse import REPEATS
from k2.data.repetition import repeats_itself
from k2.data.shard import ShardFacts, ShardWriter, sort_ids
from k2.data.sources import Piece, read_one, read_piece
from k2.recipe.data import FilesSource, Subset
from k2.recipe.load import digest
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, seal_folder
from k2.tokenizer import Tokenizer

_BATCH_CHARACTERS = 1 << 20  # of text that is encoded at once
_PLAIN = Draw("plain", 0, 0)


@dataclass(frozen=True)
class EncodePiece:
    """The task: encode these pieces as the subset's shard of that number. `source` and `place` read them (see `freeze.Frozen`).

    `files` holds the number of each piece's file in the subset's frozen list.
    """

    root: Path
    recipe: Recipe
    subset: Subset
    shard: int
    source: FilesSource
    place: Place
    pieces: tuple[Piece, ...]
    files: tuple[int, ...]

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each file by its name."""
        return {piece.file.name: number for piece, number in zip(self.pieces, self.files, strict=True)}


@dataclass(frozen=True)
class EncodeBeginning:
    """The task: encode the one document that a cap cuts, as far as `limit_bytes` allow, as a shard by itself."""

    root: Path
    recipe: Recipe
    subset: Subset
    shard: int
    source: FilesSource
    place: Place
    name: str
    file: int
    position: int
    limit_bytes: int

    @property
    def numbers(self) -> dict[str, int]:
        return {self.name: self.file}


@dataclass(frozen=True)
class EncodedShard:
    """What a task leaves: which shard of which subset, its digest, and its counts."""

    subset: str
    shard: int
    digest: str
    facts: ShardFacts


def encode_piece(task: EncodePiece) -> EncodedShard:
    """Encode the pieces, or give what the earlier time left."""
    first, last = task.pieces[0], task.pieces[-1]
    made_from = {"file": first.file.name, "begin": first.begin, "last_file": last.file.name, "end": last.end}
    return find_shard(RunLayout(task.root), task.subset.name, task.shard) or _commit(task, made_from, _documents(task))


def encode_beginning(task: EncodeBeginning) -> EncodedShard:
    """Encode the document that the cap cuts, or give what the earlier time left."""
    done = find_shard(RunLayout(task.root), task.subset.name, task.shard)
    if done is not None:
        return done
    found = read_one(task.source, task.place, task.name, task.position)
    assert isinstance(found, Found)
    text = cut_to_bytes(found.text, task.limit_bytes)
    cut = [Document(document_id(text), task.subset.name, found.source, found.position, text)] if text else []
    return _commit(task, {"file": task.name, "begin": task.position, "limit_bytes": task.limit_bytes}, cut)


def find_shard(layout: RunLayout, subset: str, shard: int) -> EncodedShard | None:
    """The shard, if it is finished."""
    receipt = find_receipt(layout.shard(subset, shard))
    return None if receipt is None else EncodedShard(subset, shard, receipt.digest, ShardFacts(**receipt.facts["counts"]))


def document_tokens(tokenizer: Tokenizer, recipe: Recipe, subset: Subset, document: Document) -> list[int]:
    """The ids of one document as they stand in the stream, `</s>` included."""
    [(_, ids, _)] = _encode(tokenizer, recipe, subset, [document])
    tokens: list[int] = ids.tolist()
    return tokens


def _documents(task: EncodePiece) -> Iterator[Document | Dropped]:
    for found in (found for piece in task.pieces for found in read_piece(task.source, task.place, piece)):
        if isinstance(found, Dropped):
            yield found
        else:
            yield Document(document_id(found.text), task.subset.name, found.source, found.position, found.text)


def _commit(task: EncodePiece | EncodeBeginning, made_from: dict[str, object], documents: Iterable[Document | Dropped]) -> EncodedShard:
    layout = RunLayout(task.root)
    with durable_folder(layout.shard(task.subset.name, task.shard)) as folder:
        with ShardWriter(folder) as shard:
            for batch in _batches(documents):
                _write(shard, task, batch, _tokenizer(layout.tokenizer))
        facts = shard.facts()
        sort_ids(folder)
        receipt = Receipt(
            kind="shard",
            name=f"{task.subset.name}/{task.shard:05d}",
            recipe=digest(task.recipe),
            made_at=now(),
            facts={"made_from": made_from, "counts": asdict(facts)},
        )
        sealed = seal_folder(folder, receipt)
    return EncodedShard(task.subset.name, task.shard, sealed.digest, facts)


def _write(shard: ShardWriter, task: EncodePiece | EncodeBeginning, batch: list[Document | Dropped], tokenizer: Tokenizer) -> None:
    """Write a batch of documents, each to where it belongs. What a cap cuts was chosen for training as a whole."""
    share = task.recipe.data.held_out if isinstance(task, EncodePiece) else 0.0
    trained = [d for d in batch if isinstance(d, Document) and not is_held_out(d.id, share)]
    numbers = task.numbers
    drops_repetitions = task.subset.repetitions == "drop" and isinstance(task, EncodePiece)
    encoded = iter(_encode(tokenizer, task.recipe, task.subset, trained))
    for document in batch:
        if isinstance(document, Dropped):
            shard.drop(document)
        elif is_held_out(document.id, share):
            shard.hold_out(document)
        else:
            text_bytes, ids, form = next(encoded)
            if drops_repetitions and repeats_itself(ids):
                shard.drop(Dropped(document.source, document.position, REPEATS))
            else:
                shard.add(document, numbers[document.source], text_bytes, ids, form)


def _batches(documents: Iterable[Document | Dropped]) -> Iterator[list[Document | Dropped]]:
    """Runs of documents of about `_BATCH_CHARACTERS`."""
    batch: list[Document | Dropped] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text) if isinstance(document, Document) else 0
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


def _encode(tokenizer: Tokenizer, recipe: Recipe, subset: Subset, documents: list[Document]) -> Iterator[tuple[int, Ids, Form]]:
    """Of each document the bytes of its text, its ids with `</s>`, and its form."""
    rates = recipe.data.fill_in_the_middle
    drawn = [draw(recipe.seed, d.id, len(d.text), rates) if subset.code else _PLAIN for d in documents]
    cuts = [parts(document.text, one) for document, one in zip(documents, drawn, strict=True)]
    encoded = iter(tokenizer.encode_batch([part for cut in cuts for part in cut]))
    for document, one, cut in zip(documents, drawn, cuts, strict=True):
        yield len(document.text.encode()), arrange(tokenizer, one, [next(encoded) for _ in cut]), one.form


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    """Loaded once a process."""
    return Tokenizer(folder)
