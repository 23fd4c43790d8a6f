"""Fill-in-the-middle: a code document's ids, rearranged so that a left-to-right model learns to fill gaps.

Enters a document's text; leaves its ids and the form they have. The report's forms (K2 §1.2): PSM, and the second
variant of SPM, cut at two characters. Where K2 drew by the wall clock, everything here follows from (seed, document),
so that a second build gives the same bytes.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from k2.recipe.data import FillInTheMiddle
from k2.tokenizer import Tokenizer

Form = Literal["plain", "psm", "spm"]
Ids = npt.NDArray[np.uint16]
_MANTISSA_BITS = 53


@dataclass(frozen=True)
class Draw:
    """What chance says of one code document: its form, and its two cuts in characters, first <= second."""

    form: Form
    first: int
    second: int


def draw(seed: int, document: str, characters: int, rates: FillInTheMiddle) -> Draw:
    """The document's draw. The same seed, id and length give the same."""
    words = struct.unpack("<4Q", hashlib.sha256(f"fim {seed} {document}".encode()).digest())
    is_fim, is_spm, one, other = ((word >> (64 - _MANTISSA_BITS)) / 2**_MANTISSA_BITS for word in words)
    first, second = sorted((int(one * (characters + 1)), int(other * (characters + 1))))
    if is_fim >= rates.rate:
        return Draw("plain", 0, 0)
    return Draw("spm" if is_spm < rates.spm_rate else "psm", first, second)


def parts(text: str, drawn: Draw) -> tuple[str, ...]:
    """What of the text is encoded by itself: all of it, or prefix, middle and suffix."""
    if drawn.form == "plain":
        return (text,)
    return text[: drawn.first], text[drawn.first : drawn.second], text[drawn.second :]


def arrange(tokenizer: Tokenizer, drawn: Draw, encoded: Sequence[Ids]) -> Ids:
    """The ids of a document whose parts are encoded, in the drawn form and with its end."""
    if drawn.form == "plain":
        return np.append(encoded[0], _ids(tokenizer.eos))
    prefix, middle, suffix = encoded
    marks = [_ids(mark) for mark in (tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle, tokenizer.eos)]
    if drawn.form == "psm":
        return np.concatenate([marks[0], prefix, marks[1], suffix, marks[2], middle, marks[3]])
    return np.concatenate([marks[0], marks[1], suffix, marks[2], prefix, middle, marks[3]])


def _ids(token: int) -> Ids:
    return np.array([token], np.uint16)
