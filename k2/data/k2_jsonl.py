"""K2's published chunks: a JSON object a row, with its token ids and where they came from (K2 §1.3).

The fields are `token_ids, source, subset_name, src_filename, line_idx_in_src, tgt_mask`. A row of ours may hold several
documents: the file and the position are those of its first one. `tgt_mask` is 1 for every token, as published.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from k2.data.document import DataError

_IDS_LIMIT = 65_536


@dataclass(frozen=True)
class PublishedRow:
    """One row as it is published."""

    token_ids: npt.NDArray[np.uint16]
    source: str
    subset_name: str
    src_filename: str
    line_idx_in_src: int

    def line(self) -> bytes:
        """The row as one line of JSON."""
        origin = {
            "source": self.source,
            "subset_name": self.subset_name,
            "src_filename": self.src_filename,
            "line_idx_in_src": self.line_idx_in_src,
        }
        ids, origins = json.dumps(self.token_ids.tolist()), json.dumps(origin, ensure_ascii=False)[1:-1]
        return f'{{"token_ids": {ids}, {origins}, "tgt_mask": {_ones(len(self.token_ids))}}}\n'.encode()


@lru_cache(maxsize=8)
def _ones(count: int) -> str:
    """The mask, which is the same in every row and half of its bytes."""
    return json.dumps([1] * count)


def parse_row(line: bytes, where: str) -> PublishedRow:
    """The row in the line. `DataError` names what is wrong with it; a masked token is refused, pre-training masks none."""
    try:
        fields = json.loads(line)
        ids = np.asarray(fields["token_ids"])
        subset = _text(fields, "subset_name")
        row = PublishedRow(ids, fields.get("source", subset), subset, _text(fields, "src_filename"), int(fields["line_idx_in_src"]))
        mask = fields.get("tgt_mask", [1] * len(ids))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where} is no row of K2's schema ({error.__class__.__name__}: {error})") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or (ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < _IDS_LIMIT):
        raise DataError(f"{where}: token_ids must be a list of numbers from 0 to {_IDS_LIMIT - 1}")
    if list(mask) != [1] * len(ids):
        raise DataError(f"{where}: tgt_mask leaves tokens out, which a row for pre-training cannot; import rows without masks")
    return PublishedRow(ids.astype(np.uint16), row.source, row.subset_name, row.src_filename, row.line_idx_in_src)


def _text(fields: Any, name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no string")
    return value
