"""The tokenizer: sentencepiece pieces with LLaMA's settings, and behind them K2's 18 code tokens (K2 §2).

Text goes in, ids come out. Ids of control and code tokens never come out of text: a document that spells
`</s>` or `<fim_prefix>` stays text (K2's own preparation let such documents inject control tokens).
The folder holds `tokenizer.model` and its receipt; `save_huggingface` writes what `AutoTokenizer` loads.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from k2.recipe.schema import NUM_CODE_TOKENS
from k2.tokenizer.fast import FastEncoder, open_fast

CODE_TOKENS = (  # in K2's order: their ids are pieces + 0 ... 17, that is 32000 ... 32017 behind LLaMA's pieces
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<reponame>",
)
assert len(CODE_TOKENS) == NUM_CODE_TOKENS

MODEL_FILE = "tokenizer.model"
UNK, BOS, EOS = 0, 1, 2  # LLaMA's
Ids = npt.NDArray[np.unsignedinteger[Any]]


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained or does not fit the recipe. The text is for the user."""


class Tokenizer:
    """The tokenizer in `folder`. Raises `TokenizerError` when there is none."""

    def __init__(self, folder: Path) -> None:
        self.model_file = folder / MODEL_FILE
        self._pieces = load_pieces(self.model_file)
        self.pieces: int = self._pieces.get_piece_size()

    @property
    def vocabulary(self) -> int:
        """Number of ids, code tokens included."""
        return self.pieces + NUM_CODE_TOKENS

    @property
    def bos(self) -> int:
        return BOS

    @property
    def eos(self) -> int:
        """`</s>`, which ends a document."""
        return EOS

    @property
    def fim_prefix(self) -> int:
        return self.code_token("<fim_prefix>")

    @property
    def fim_middle(self) -> int:
        return self.code_token("<fim_middle>")

    @property
    def fim_suffix(self) -> int:
        return self.code_token("<fim_suffix>")

    def code_token(self, name: str) -> int:
        """The id of one of the 18 code tokens."""
        return self.pieces + CODE_TOKENS.index(name)

    def encode(self, text: str) -> list[int]:
        """The ids of the text, without begin or end. Never a control or code token."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, equal to `encode`'s: uint16 where the vocabulary fits, else uint32.

        Several times as fast as `encode`, where `k2.tokenizer.fast` can vouch for the same ids; on one core.
        """
        if self._fast is None:
            return [np.asarray(ids, self.dtype) for ids in self._pieces.encode(list(texts), num_threads=1)]
        return [ids.astype(self.dtype) for ids in self._fast.encode_batch(texts)]

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest type that holds every id."""
        return np.uint16 if self.vocabulary <= 1 << 16 else np.uint32

    @cached_property
    def _fast(self) -> FastEncoder | None:
        return open_fast(self.model_file, self._pieces)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Code tokens stand by their names; begin and end of a document are left out."""
        return "".join(self._decode_run(is_code, list(run)) for is_code, run in groupby(ids, key=lambda i: i >= self.pieces))

    def piece(self, token: int) -> str:
        """How the vocabulary writes one id."""
        return CODE_TOKENS[token - self.pieces] if token >= self.pieces else str(self._pieces.id_to_piece(token))

    def _decode_run(self, is_code: bool, run: list[int]) -> str:
        return "".join(self.piece(i) for i in run) if is_code else str(self._pieces.decode([int(i) for i in run]))


def load_pieces(path: Path) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{path} is no sentencepiece model that can be read ({error}); give the path of a tokenizer.model") from error
