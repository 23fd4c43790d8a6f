"""Encoding: each subset's documents as one stream of token ids, `</s>` after each document.

Enters `sources/<subset>.jsonl`; leaves `tokens/<subset>/`: `tokens.bin` (uint16), `starts.npy` (where each document
begins in the stream, and the end), `documents.jsonl` (a line a document, in the same order) and a receipt.
Samples of any context are cut from this stream: sample s of context T is ids s*T ... (s+1)*T - 1. Packing is crude as
K2's (K2 §1.2): no `<s>`, no mask between documents, and the tail that fills no sample is dropped and counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from k2.data.document import Document, read_documents
from k2.data.fim import Draw, arrange, draw
from k2.data.gather import source_file
from k2.recipe.load import digest
from k2.recipe.schema import Recipe, Subset
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, seal_folder
from k2.tokenizer import Tokenizer

_TOKENS, _STARTS, _DOCUMENTS = "tokens.bin", "starts.npy", "documents.jsonl"
_PLAIN = Draw("plain", 0, 0)


@dataclass(frozen=True)
class EncodedDocument:
    """One line of `documents.jsonl`: `document` is its number in the stream, `id` its id everywhere."""

    document: int
    id: str
    source: str
    position: int
    tokens: int
    form: str

    def line(self) -> bytes:
        """The document as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class Stream:
    """A subset's tokens, mapped into memory."""

    tokens: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]


def encode_subset(recipe: Recipe, layout: RunLayout, subset: Subset, inputs: dict[str, str], progress: Callable[[str], None]) -> Receipt:
    """Encode one subset, or give the receipt of the earlier time."""
    target = layout.tokens / subset.name
    done = find_receipt(target)
    if done is not None:
        return done
    tokenizer = Tokenizer(layout.tokenizer)
    forms: Counter[str] = Counter()
    with durable_folder(target) as folder:
        starts = _write_stream(
            folder, source_file(layout, subset.name), lambda document: _encode(tokenizer, recipe, subset, document), forms
        )
        facts = {"documents": len(starts) - 1, "tokens": starts[-1], "forms": dict(forms)}
        progress(f"encoded {subset.name}: {starts[-1]:,} tokens of {len(starts) - 1} documents")
        return seal_folder(
            folder, Receipt(kind="tokens", name=subset.name, recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
        )


def document_tokens(tokenizer: Tokenizer, recipe: Recipe, subset: Subset, document: Document) -> list[int]:
    """The ids of one document as they stand in the stream, `</s>` included."""
    return _encode(tokenizer, recipe, subset, document)[0]


def open_stream(layout: RunLayout, subset: str) -> Stream:
    """The subset's tokens. An empty subset has an empty stream."""
    folder = layout.tokens / subset
    starts = np.load(folder / _STARTS, allow_pickle=False)
    tokens = np.memmap(folder / _TOKENS, dtype="<u2", mode="r") if starts[-1] else np.zeros(0, np.uint16)
    return Stream(tokens, starts)


def encoded_documents(layout: RunLayout, subset: str) -> Iterator[EncodedDocument]:
    """The subset's documents in the order of its stream."""
    with (layout.tokens / subset / _DOCUMENTS).open("rb") as file:
        for line in file:
            yield EncodedDocument(**json.loads(line))


def _encode(tokenizer: Tokenizer, recipe: Recipe, subset: Subset, document: Document) -> tuple[list[int], str]:
    drawn = draw(recipe.seed, document.id, len(document.text), recipe.data.fill_in_the_middle) if subset.code else _PLAIN
    return [*arrange(tokenizer, document.text, drawn), tokenizer.eos], drawn.form


def _write_stream(folder: Path, source: Path, encode: Callable[[Document], tuple[list[int], str]], forms: Counter[str]) -> list[int]:
    """Write the stream and its documents; give back the starts."""
    starts = [0]
    with (folder / _TOKENS).open("wb") as tokens, (folder / _DOCUMENTS).open("wb") as documents:
        for number, document in enumerate(read_documents(source)):
            ids, form = encode(document)
            np.asarray(ids, dtype="<u2").tofile(tokens)
            documents.write(EncodedDocument(number, document.id, document.source, document.position, len(ids), form).line())
            starts.append(starts[-1] + len(ids))
            forms[form] += 1
    np.save(folder / _STARTS, np.asarray(starts, dtype=np.int64))
    return starts
