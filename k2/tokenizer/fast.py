"""The same ids as sentencepiece's, several times as fast: gigatoken fed with the model's pieces and no special token.

Enters a sentencepiece model; leaves a `FastEncoder` where equality is certain: the model's settings say so
(`why_not_same`), texts made to bring out differences agree when it is opened, and then one document in every 500 is
encoded both ways. Otherwise sentencepiece does the work, and the log says once why.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from k2.tokenizer.form import plain_form, read_model, why_not_same

log = logging.getLogger(__name__)

_CHECKED_EVERY = 500  # documents: a check costs about 8 times an encoding, so 2 %
# The library keeps every word it has met, without end (10^6 random words of 12 characters take about 110 MB). On 80 MB of
# Python a memory of 64, 128 and 512 MB gave 12.1, 13.2 and 13.5 million tokens a CPU-second.
_CACHE_BYTES = 128 << 20
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = 4096

_SAMPLE = (
    *("", " ", "  ", "\n", "\n\n\n", "\t", "\r\n", "a", " a", "a ", "  a  b  ", "▁", "▁▁", "a▁b", " ▁ ", "\x00", "a\x00b", "\x7f\x80"),
    *("\ufeff", "\ufffd\uffff", "\u00a0\u2003\u3000", "</s>", "<s>", "<unk>", "<0x0A>", "a</s>b <s> <fim_prefix>", "0123456789 3.14e-10"),
    *("é", "e\u0301", "漢字", "한국어", "مرحبا", "नमस्ते", "👩‍👩‍👧", "🇫🇷🏳️‍🌈", "ﬁ①½™ＡＢＣ", "\U0010ffff"),
    *("The quick brown fox jumps over the lazy dog.", "def f(self):\n    return [x for x in range(10)]\n\n"),
    *("a" * 50, "ab" * 70, " " * 65, "=" * 80),
)


class DifferentIds(ValueError):
    """The fast encoder gave other ids than sentencepiece on a document that was checked. The text is for the user."""


class FastEncoder:
    """Encodes as `pieces`, a sentencepiece processor, does. `form` is the JSON of the other form."""

    def __init__(self, pieces: Any, form: str) -> None:
        self._pieces, self._form = pieces, form
        self._encoded = 0
        self._renew()

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """The ids of each text. `DifferentIds` when a checked document shows that it may not be trusted."""
        if _resident_bytes() - self._resident_bytes > _CACHE_BYTES:
            self._renew()
        encode = self._backend.encode
        ids: list[npt.NDArray[np.uint32]] = [encode(text) for text in texts]
        for checked in range(-self._encoded % _CHECKED_EVERY, len(texts), _CHECKED_EVERY):
            if not self.agrees(texts[checked], ids[checked]):
                raise DifferentIds(
                    f"gigatoken and sentencepiece give different ids for the text that begins {texts[checked][:200]!r}: "
                    "uninstall gigatoken, so that sentencepiece encodes everything, and build anew"
                )
        self._encoded += len(texts)
        return ids

    def agrees(self, text: str, ids: npt.NDArray[np.uint32]) -> bool:
        """Whether sentencepiece gives these ids too."""
        return bool(np.array_equal(ids, self._pieces.encode(text)))

    def first_difference(self, texts: Sequence[str]) -> str | None:
        """The first of the texts on which the two differ."""
        return next((text for text in texts if not self.agrees(text, self._backend.encode(text))), None)

    def _renew(self) -> None:
        """Begin with an empty memory of words."""
        from gigatoken import Tokenizer

        self._backend = Tokenizer.from_json(self._form)
        self._resident_bytes = _resident_bytes()


def open_fast(model_file: Path, pieces: Any) -> FastEncoder | None:
    """The fast encoder for the model, or None when sentencepiece has to do the work."""
    model = read_model(model_file)
    reason = why_not_same(model)
    if reason is None:
        try:
            encoder = FastEncoder(pieces, plain_form(model).to_str())
        except ImportError as error:
            reason = f"gigatoken cannot be loaded ({error})"
        else:
            different = encoder.first_difference((*_SAMPLE, *_own_sample(model)))
            if different is None:
                return encoder
            reason = f"gigatoken gives other ids on {different[:80]!r}"
    log.warning("%s is encoded by sentencepiece, at an eighth of the speed: %s", model_file, reason)
    return None


def _own_sample(model: Any) -> list[str]:
    """Texts of the model's own pieces: 200 of them, alone, doubled and in a row."""
    names = [piece.piece.replace("▁", " ") for piece in model.pieces if piece.type == 1]
    chosen = names[:: max(1, len(names) // 200)]
    return [*chosen, *(name * 2 for name in chosen), "".join(chosen), "".join(reversed(chosen))]


def _resident_bytes() -> int:
    """This process's memory; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
