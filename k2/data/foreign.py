"""Reading chunks that others tokenized: rows of ids with what is known of where they came from.

Enters a file of K2's published JSONL or of Megatron's indexed format; leaves `RowBlock`s, some thousand rows at a time, in
the file's order. Rows have the stage's context: a JSONL row of another length is refused, Megatron's sequences are packed
one after the other as K2 packed documents (the last tokens that fill no row are left out).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from k2.data.document import DataError
from k2.data.k2_jsonl import PublishedRow, parse_row
from k2.data.megatron import open_indexed
from k2.run.receipt import digest_file

Format = Literal["jsonl", "megatron"]
SUFFIX: dict[Format, str] = {"jsonl": ".jsonl", "megatron": ".bin"}
_BLOCK_TOKENS = 1 << 22
_IDS_LIMIT = 65_536


@dataclass(frozen=True)
class RowBlock:
    """Rows, and of each the subset, the file and the place in it that it came from, as far as the chunk says."""

    rows: npt.NDArray[np.uint16]
    subsets: list[str]
    files: list[str]
    positions: list[int]


@dataclass(frozen=True)
class ForeignChunk:
    """One file of rows, to be read with this context. `subset` names what holds no name of its own (Megatron's files)."""

    path: Path
    format: Format
    context: int
    subset: str | None

    def digest(self) -> str:
        """SHA-256 of what is read."""
        if self.format == "jsonl":
            return digest_file(self.path)
        both = digest_file(self.path) + digest_file(self.path.with_suffix(".idx"))
        return hashlib.sha256(both.encode()).hexdigest()

    def blocks(self) -> Iterator[RowBlock]:
        """The rows in order. `DataError` names the row that is none."""
        return self._published() if self.format == "jsonl" else self._indexed()

    def _published(self) -> Iterator[RowBlock]:
        with self.path.open("rb") as file:
            rows = (self._row(line, f"{self.path}, line {number}") for number, line in enumerate(file, start=1) if line.strip())
            while block := list(islice(rows, max(1, _BLOCK_TOKENS // self.context))):
                yield RowBlock(
                    np.stack([row.token_ids for row in block]),
                    [row.subset_name for row in block],
                    [row.src_filename for row in block],
                    [row.line_idx_in_src for row in block],
                )

    def _row(self, line: bytes, where: str) -> PublishedRow:
        row = parse_row(line, where)
        if len(row.token_ids) != self.context:
            raise DataError(f"{where} has {len(row.token_ids)} ids, the recipe's stage wants rows of {self.context}")
        return row

    def _indexed(self) -> Iterator[RowBlock]:
        if self.subset is None:
            raise DataError(f"{self.path} does not say which subset its rows are of: name it with --subset")
        found = open_indexed(self.path)
        size = found.tokens.itemsize
        ends = np.cumsum(found.lengths, dtype=np.int64)
        if len(ends) and (found.begins[0] != 0 or not np.array_equal(found.begins[1:], ends[:-1] * size)):
            raise DataError(f"{self.path}: its sequences do not lie one after the other; write them anew with Megatron's own merging tool")
        rows = (int(ends[-1]) if len(ends) else 0) // self.context
        step = max(1, _BLOCK_TOKENS // self.context)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            ids = found.tokens[first * self.context : last * self.context]
            if not 0 <= int(ids.min()) <= int(ids.max()) < _IDS_LIMIT:
                raise DataError(f"{self.path} holds ids from {int(ids.min())} to {int(ids.max())}; they must lie below {_IDS_LIMIT}")
            sequences = np.searchsorted(ends, np.arange(first, last) * self.context, side="right")
            count = last - first
            yield RowBlock(ids.astype("<u2").reshape(-1, self.context), [self.subset] * count, [self.path.name] * count, sequences.tolist())


def find_chunk(folder: Path, stage: str, stages: Sequence[str], chunk: int, format: Format) -> Path:
    """The file of that chunk: `<folder>/<stage>/chunk_012.jsonl` or `chunk_12.jsonl`; of a single stage also directly in the folder."""
    folders = [folder / stage, *([folder] if len(stages) == 1 else [])]
    candidates = [place / f"chunk_{number}{SUFFIX[format]}" for place in folders for number in (f"{chunk:03d}", str(chunk))]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"{candidates[0]} does not exist: chunk {chunk} of {stage} is looked for there, or as chunk_{chunk}{SUFFIX[format]}")
