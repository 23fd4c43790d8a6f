"""A document: its text, where it was found, and an id that stays the same wherever the same text is read.

Readers yield `Found` and `Dropped`; nothing is passed over without a reason that can be counted.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

_ID_DIGITS = 24  # 96 bits: two of 10^9 documents share an id with a chance of 10^-11


class DataError(ValueError):
    """Data that cannot be prepared as the recipe says. The text names the value, the rule and the fix."""


@dataclass(frozen=True)
class Found:
    """A text as a reader found it.

    `position` is the byte at which its record begins in its (decompressed) file, the number of its row in Parquet, and 0
    for a file that is one document.
    """

    source: str
    position: int
    text: str


@dataclass(frozen=True)
class Dropped:
    """Something that is no usable document, and why."""

    source: str
    position: int
    reason: str


@dataclass(frozen=True)
class Document:
    """One document of a subset."""

    id: str
    subset: str
    source: str
    position: int
    text: str

    def line(self) -> bytes:
        """The document as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"


def document_id(text: str) -> str:
    """The id of a text: the first digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def is_held_out(document: str, share: float) -> bool:
    """Whether the document of that id is kept from training. Nothing but the id and the share decides: every copy of it is."""
    word = hashlib.sha256(f"held out {document}".encode()).digest()[:7]
    return int.from_bytes(word) < share * 2**56


def cut_to_bytes(text: str, limit: int) -> str:
    """The text when it fits into `limit` bytes of UTF-8; else its beginning up to the last line end that does."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    fits = encoded[:limit].decode("utf-8", "ignore")
    return fits[: fits.rfind("\n") + 1] or fits
