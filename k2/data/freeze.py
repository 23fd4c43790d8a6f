"""Freezing: what the data is made from is fixed once, before anything is made from it.

Enters the recipe's sources; leaves `sources/`: for each subset the list of its files with their sizes, and for text that is
gathered from this installation (which may change tomorrow) the text itself. Files of the user are read where they lie and
never copied; one that changed since is refused by name when it is read (`sources.read_piece`). How a place tells that,
by times or tags, is no part of what the receipt vouches for: the same files elsewhere are the same sources.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from k2.data.document import DataError, Document, Dropped, Found, cut_to_bytes, document_id, is_held_out
from k2.data.sources import SourceFile, cut, list_source, read_piece
from k2.recipe.data import FilesSource, PythonSource, Subset
from k2.recipe.load import digest
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import RECEIPT, Receipt, digest_files, find_receipt, now, write_receipt

HELD_OUT = "held_out"
_VERSIONS = "versions.json"
_FIRST_BYTES = 16 << 20


@dataclass(frozen=True)
class Frozen:
    """A subset's files, and the source and place to read them with."""

    source: FilesSource
    place: Place
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


@dataclass
class _Gathered:
    """What became of the installation's texts. `kept` are bytes of those that training may read."""

    documents: int = 0
    kept: int = 0
    duplicates: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def freeze(recipe: Recipe, place: Place, layout: RunLayout, progress: Callable[[str], None]) -> Receipt:
    """Fix the recipe's sources under `layout.sources`; the receipt of the earlier time if they are."""
    done = find_receipt(layout.sources)
    if done is not None:
        return done
    if any(subset.name == HELD_OUT for subset in recipe.data.subsets):
        raise DataError(f"data.subsets names a subset {HELD_OUT!r}, which is the name of what is held out: give it another")
    facts, versions = {}, {}
    with durable_folder(layout.sources) as folder:
        for subset in recipe.data.subsets:
            if isinstance(subset.source, PythonSource):
                facts[subset.name] = _gather(subset, recipe, place, folder, progress)
            else:
                files = list_source(subset.source, place)
                facts[subset.name] = _list(subset.name, files, folder, progress)
                versions[subset.name] = [file.version for file in files]
        vouched = digest_files(folder, folder.iterdir())
        (folder / _VERSIONS).write_text(json.dumps(versions), "utf-8")
        receipt = Receipt(kind="sources", name="sources", recipe=digest(recipe), made_at=now(), facts={"subsets": facts}, files=vouched)
        return write_receipt(folder / RECEIPT, receipt)


def frozen(place: Place, layout: RunLayout, subset: Subset) -> Frozen:
    """The subset as it was frozen."""
    if isinstance(subset.source, PythonSource):
        source = FilesSource(pattern=f"{subset.name}.jsonl", max_document_bytes=1 << 40)
        here = place.model_copy(update={"data_dir": str(layout.sources)})
        return Frozen(source, here, tuple(list_source(source, here)))
    versions = json.loads((layout.sources / _VERSIONS).read_text("utf-8"))[subset.name]
    with _listing(layout.sources, subset.name).open("rb") as lines:
        listed = [json.loads(line) for line in lines]
    files = tuple(SourceFile(file["name"], file["bytes"], version) for file, version in zip(listed, versions, strict=True))
    return Frozen(subset.source, place, files)


def file_names(layout: RunLayout, subset: Subset) -> list[str]:
    """The names of the subset's files, by their numbers."""
    if isinstance(subset.source, PythonSource):
        return [f"{subset.name}.jsonl"]
    with _listing(layout.sources, subset.name).open("rb") as lines:
        return [json.loads(line)["name"] for line in lines]


def first_texts(recipe: Recipe, subset: Subset, frozen: Frozen, limit_bytes: float) -> Iterator[str]:
    """The subset's first texts that training may read, until they have so many bytes; without copies where the recipe says so."""
    read, seen = 0, set[str]()
    for found in (found for piece in cut(frozen.files, _FIRST_BYTES) for found in read_piece(frozen.source, frozen.place, piece)):
        if isinstance(found, Found) and not is_held_out(known := document_id(found.text), recipe.data.held_out):
            if subset.duplicates == "drop" and known in seen:
                continue
            text = found.text if subset.max_bytes is None else cut_to_bytes(found.text, subset.max_bytes - read)
            if read >= limit_bytes:
                return
            yield text
            if text != found.text:
                return
            read += len(text.encode())
            seen.add(known)


def _list(subset: str, files: list[SourceFile], folder: Path, progress: Callable[[str], None]) -> dict[str, object]:
    with _listing(folder, subset).open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"name": file.name, "bytes": file.bytes}, ensure_ascii=False) + "\n" for file in files)
    size = sum(file.bytes for file in files)
    progress(f"froze {subset}: {len(files)} files, {size / 1e6:.2f} MB, read where they lie")
    return {"files": len(files), "bytes": size, "duplicates": 0, "dropped": {}}


def _gather(subset: Subset, recipe: Recipe, place: Place, folder: Path, progress: Callable[[str], None]) -> dict[str, object]:
    """Write the installation's documents until training has what the cap allows it. What is held out does not count against it."""
    gathered = _Gathered()
    path = folder / f"{subset.name}.jsonl"
    with path.open("wb") as lines:
        for found in _texts(subset, place, gathered):
            known = document_id(found.text)
            lines.write(Document(known, subset.name, found.source, found.position, found.text).line())
            gathered.documents += 1
            gathered.kept += 0 if is_held_out(known, recipe.data.held_out) else len(found.text.encode())
            if subset.max_bytes is not None and gathered.kept >= subset.max_bytes:
                break
    progress(f"gathered {subset.name}: {gathered.documents} documents, {path.stat().st_size / 1e6:.2f} MB")
    return {"files": 1, "bytes": path.stat().st_size, "duplicates": gathered.duplicates, "dropped": gathered.dropped}


def _texts(subset: Subset, place: Place, gathered: _Gathered) -> Iterator[Found]:
    """What the installation holds. Duplicates are known by memory here: it is never large."""
    seen: set[str] = set()
    for piece in cut(list_source(subset.source, place), 1 << 40):
        for found in read_piece(subset.source, place, piece):
            if isinstance(found, Dropped):
                gathered.dropped[found.reason] = gathered.dropped.get(found.reason, 0) + 1
                continue
            known = document_id(found.text)
            if subset.duplicates == "drop" and known in seen:
                gathered.duplicates += 1
                continue
            seen.add(known)
            yield found


def _listing(folder: Path, subset: str) -> Path:
    return folder / f"{subset}.files.jsonl"
