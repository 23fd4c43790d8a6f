"""Fill-in-the-middle: a code document's ids, rearranged so that a left-to-right model learns to fill gaps.

Enters a document's text; leaves its ids and the form they have. The report's forms (K2 §1.2): PSM, and the second
variant of SPM, cut at two characters. Where K2 drew by the wall clock, everything here follows from (seed, document),
so that a second build gives the same bytes.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Literal

from k2.recipe.schema import FillInTheMiddle
from k2.tokenizer import Tokenizer

Form = Literal["plain", "psm", "spm"]
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


def arrange(tokenizer: Tokenizer, text: str, drawn: Draw) -> list[int]:
    """The ids of the text in the drawn form, without the end of the document."""
    if drawn.form == "plain":
        return tokenizer.encode(text)
    cuts = text[: drawn.first], text[drawn.first : drawn.second], text[drawn.second :]
    prefix, middle, suffix = (tokenizer.encode(part) for part in cuts)
    if drawn.form == "psm":
        return [tokenizer.fim_prefix, *prefix, tokenizer.fim_suffix, *suffix, tokenizer.fim_middle, *middle]
    return [tokenizer.fim_prefix, tokenizer.fim_suffix, *suffix, tokenizer.fim_middle, *prefix, *middle]
