"""Megatron's indexed format: a `.bin` of token ids and an `.idx` that says where each sequence begins.

The index, little-endian (Megatron-LM, megatron/core/datasets/indexed_dataset.py): nine bytes `MMIDIDX` and two zeros,
the version (8 bytes, 1), a code of the ids' type (1 byte), the number of sequences and the length of the list of documents
(8 bytes each); then the lengths of the sequences (int32), where they begin in bytes (int64), and the number of the first
sequence of each document (int64), closed by the number of sequences. Here every row is a sequence and a document.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from k2.data.document import DataError

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_HEADER = struct.Struct("<9sQBQQ")
_TYPES: dict[int, type[np.integer[Any]]] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_UINT16 = 8
_BLOCK = 1 << 20  # of index entries written at once


@dataclass(frozen=True)
class IndexedSequences:
    """An indexed file, mapped into memory. `begins` are bytes of the `.bin`."""

    tokens: npt.NDArray[Any]
    lengths: npt.NDArray[np.int32]
    begins: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def sequence(self, number: int) -> npt.NDArray[Any]:
        """The ids of one sequence."""
        first = int(self.begins[number]) // self.tokens.itemsize
        return self.tokens[first : first + int(self.lengths[number])]


def write_rows(bin_file: Path, idx_file: Path, blocks: Iterable[npt.NDArray[np.uint16]], samples: int, context: int) -> None:
    """Write `samples` rows of `context` ids, block by block."""
    with bin_file.open("wb") as tokens:
        for rows in blocks:
            tokens.write(rows.astype("<u2", copy=False).tobytes())
    with idx_file.open("wb") as index:
        index.write(_HEADER.pack(_MAGIC, _VERSION, _UINT16, samples, samples + 1))
        for first in range(0, samples, _BLOCK):
            index.write(np.full(min(_BLOCK, samples - first), context, "<i4").tobytes())
        for step, end in ((2 * context, samples), (1, samples + 1)):
            for first in range(0, end, _BLOCK):
                index.write((np.arange(first, min(first + _BLOCK, end), dtype="<i8") * step).tobytes())


def open_indexed(bin_file: Path) -> IndexedSequences:
    """The sequences of a `.bin` and the `.idx` beside it. `DataError` when they are not of the format, or not of each other."""
    idx_file = bin_file.with_suffix(".idx")
    try:
        with idx_file.open("rb") as index:
            magic, version, code, sequences, _ = _HEADER.unpack(index.read(_HEADER.size))
        lengths = np.memmap(idx_file, "<i4", "r", _HEADER.size, (sequences,))
        begins = np.memmap(idx_file, "<i8", "r", _HEADER.size + 4 * sequences, (sequences,))
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"{idx_file} is no index of Megatron's ({error}): give the .bin whose .idx lies beside it") from error
    if (magic, version) != (_MAGIC, _VERSION) or code not in _TYPES:
        raise DataError(f"{idx_file} is no index of Megatron's: it begins with {magic!r}, version {version}, type {code}")
    tokens = np.memmap(bin_file, np.dtype(_TYPES[code]).newbyteorder("<"), "r")
    if sequences and int(begins[-1]) + int(lengths[-1]) * tokens.itemsize > tokens.nbytes:
        raise DataError(f"{bin_file} has {tokens.nbytes} bytes, its index speaks of more: it was cut off; copy it again")
    return IndexedSequences(tokens, lengths, begins)
