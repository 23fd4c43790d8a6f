"""Getting a tokenizer: trained on the recipe's own text with LLaMA's settings, or a sentencepiece model that the user brings.

Enters texts or a path; leaves a folder with `tokenizer.model` and its receipt.
"""

import io
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from k2.recipe.data import FileTokenizer, TrainedTokenizer
from k2.run.durable import durable_folder
from k2.run.receipt import Receipt, now, seal_folder
from k2.tokenizer.pieces import BOS, EOS, MODEL_FILE, UNK, TokenizerError, load_pieces

_LINE_BYTES = 1 << 16  # sentencepiece passes over longer training lines


def train_tokenizer(
    texts: Iterable[str], folder: Path, settings: TrainedTokenizer, recipe: str, inputs: dict[str, str] | None = None
) -> Receipt:
    """Train on the first `settings.train_bytes` of the texts and commit the folder. The same texts give the same bytes."""
    model = io.BytesIO()
    counted = _Counted(texts, settings.train_bytes)
    _train(counted, model, settings.pieces)
    facts = {"kind": settings.kind, "pieces": settings.pieces, "trained_on_bytes": counted.bytes}
    with durable_folder(folder) as beside:
        (beside / MODEL_FILE).write_bytes(model.getvalue())
        return seal_folder(beside, _receipt(recipe, facts, inputs))


def install_tokenizer(path: Path, folder: Path, settings: FileTokenizer, recipe: str) -> Receipt:
    """Take the sentencepiece model that the user brings, when it has the pieces that the recipe says."""
    pieces = load_pieces(path)
    ids = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
    if pieces.get_piece_size() != settings.pieces:
        raise TokenizerError(
            f"tokenizer.pieces = {settings.pieces}, but {path} has {pieces.get_piece_size()} pieces: set tokenizer.pieces to that"
        )
    if ids != (UNK, BOS, EOS):
        raise TokenizerError(
            f"{path} has unknown, begin and end at the ids {ids}; LLaMA's places {(UNK, BOS, EOS)} are needed: train it so"
        )
    with durable_folder(folder) as beside:
        shutil.copyfile(path, beside / MODEL_FILE)
        return seal_folder(beside, _receipt(recipe, {"kind": settings.kind, "pieces": settings.pieces}, None))


class _Counted(Iterable[str]):
    """Lines of the texts until `limit` bytes are read. `error` is what the texts failed with, which sentencepiece would hide."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self._texts, self._limit, self.bytes = texts, limit, 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._lines()
        except Exception as error:
            self.error = error
            raise

    def _lines(self) -> Iterator[str]:
        for text in self._texts:
            for line in text.splitlines():
                size = len(line.encode()) + 1
                if self.bytes + size > self._limit:
                    return
                self.bytes += size
                if line and size <= _LINE_BYTES:
                    yield line


def _train(lines: _Counted, model: io.BytesIO, pieces: int) -> None:
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=pieces,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            character_coverage=0.99995,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            max_sentence_length=_LINE_BYTES,
            num_threads=1,  # the same pieces on any machine
            minloglevel=2,
        )
    except RuntimeError as error:
        if lines.error is not None:
            raise lines.error from None
        raise TokenizerError(
            f"tokenizer.pieces = {pieces} cannot be trained on this text ({_reason(error)}): ask for more pieces where the characters "
            "do not fit, for fewer or give more text (tokenizer.train_bytes, data.subsets) where the pieces are too many"
        ) from error


def _reason(error: RuntimeError) -> str:
    """The library's words without its source position."""
    return str(error).rpartition("] ")[2].split(". ")[0]


def _receipt(recipe: str, facts: dict[str, Any], inputs: dict[str, str] | None) -> Receipt:
    return Receipt(kind="tokenizer", name="tokenizer", recipe=recipe, made_at=now(), inputs=inputs or {}, facts=facts)
