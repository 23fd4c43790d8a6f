"""Gathering: every subset's documents, once, frozen into the run directory.

Enters the recipe's sources; leaves `sources/<subset>.jsonl` (what is trained on), `sources/held_out.jsonl` (what
never is) and one receipt with every count. A resumed run reads these files and never looks at the sources again.
Texts that occur twice are taken once, over the whole corpus: a copy of a held-out document would give it away.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from k2.data.document import DataError, Document, Dropped, Found, document_id
from k2.data.sources import cut, list_source, read_piece
from k2.recipe.load import digest
from k2.recipe.schema import Place, Recipe, Source, Subset
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, seal_folder

HELD_OUT = "held_out"
_PIECE_BYTES = 64 << 20


@dataclass
class Gathered:
    """What became of one subset's documents. `documents` and `bytes` are those that training may read."""

    documents: int = 0
    bytes: int = 0
    held_out: int = 0
    duplicates: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def say(self, subset: str) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        return (
            f"gathered {subset}: {self.documents} documents, {self.bytes / 1e6:.2f} MB; {self.held_out} held out, "
            f"{self.duplicates} duplicates" + (f"; dropped: {dropped}" if dropped else "")
        )


def gather(recipe: Recipe, place: Place, layout: RunLayout, progress: Callable[[str], None]) -> Receipt:
    """Freeze the recipe's documents under `layout.sources`; the receipt of the earlier time if they are."""
    done = find_receipt(layout.sources)
    if done is not None:
        return done
    if any(subset.name == HELD_OUT for subset in recipe.data.subsets):
        raise DataError(f"data.subsets names a subset {HELD_OUT!r}, which is the name of the held-out file: give it another")
    seen: set[str] = set()
    counts: dict[str, Gathered] = {}
    with durable_folder(layout.sources) as folder:
        with (folder / layout.held_out.name).open("wb") as held_out:
            for subset in recipe.data.subsets:
                counts[subset.name] = _gather_subset(subset, recipe, place, folder, held_out, seen)
                progress(counts[subset.name].say(subset.name))
        facts = {"subsets": {name: asdict(count) for name, count in counts.items()}}
        receipt = Receipt(kind="sources", name="sources", recipe=digest(recipe), made_at=now(), facts=facts)
        return seal_folder(folder, receipt)


def source_file(layout: RunLayout, subset: str) -> Path:
    """Where a subset's documents lie."""
    return layout.sources / f"{subset}.jsonl"


def is_held_out(document: str, share: float) -> bool:
    """Whether the document of that id is kept from training. Nothing but the id and the share decides."""
    word = hashlib.sha256(f"held out {document}".encode()).digest()[:7]
    return int.from_bytes(word) < share * 2**56


def _gather_subset(subset: Subset, recipe: Recipe, place: Place, folder: Path, held_out: IO[bytes], seen: set[str]) -> Gathered:
    """Write the subset's documents to its file and to the held-out one. What is held out does not count against the cap."""
    count = Gathered()
    with (folder / f"{subset.name}.jsonl").open("wb") as kept:
        for found in _new_texts(subset.source, place, seen, count):
            if is_held_out(document_id(found.text), recipe.data.held_out):
                held_out.write(_document(found, found.text, subset).line())
                count.held_out += 1
                continue
            text = found.text if subset.max_bytes is None else cut_to_bytes(found.text, subset.max_bytes - count.bytes)
            if text:
                kept.write(_document(found, text, subset).line())
                count.documents += 1
                count.bytes += len(text.encode())
            if text != found.text:
                break
    return count


def _new_texts(source: Source, place: Place, seen: set[str], count: Gathered) -> Iterator[Found]:
    """What the source gives that was not seen before; the rest is counted."""
    pieces = cut(list_source(source, place), _PIECE_BYTES)
    for found in (found for piece in pieces for found in read_piece(source, place, piece)):
        if isinstance(found, Dropped):
            count.dropped[found.reason] = count.dropped.get(found.reason, 0) + 1
            continue
        known = document_id(found.text)
        if known in seen:
            count.duplicates += 1
            continue
        seen.add(known)
        yield found


def _document(found: Found, text: str, subset: Subset) -> Document:
    return Document(document_id(text), subset.name, found.source, found.position, text)


def cut_to_bytes(text: str, limit: int) -> str:
    """The text when it fits into `limit` bytes of UTF-8; else its beginning up to the last line end that does."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    fits = encoded[:limit].decode("utf-8", "ignore")
    return fits[: fits.rfind("\n") + 1] or fits
