"""The tokenizer: sentencepiece pieces with LLaMA's settings, and behind them K2's 18 code tokens (K2 §2).

Text goes in, ids come out. Ids of control and code tokens never come out of text: a document that spells
`</s>` or `<fim_prefix>` stays text (K2's own preparation let such documents inject control tokens).
The folder holds `tokenizer.model` and its receipt; `save_huggingface` writes what `AutoTokenizer` loads.
"""

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from k2.recipe.schema import NUM_CODE_TOKENS, FileTokenizer, TrainedTokenizer
from k2.run.durable import durable_folder
from k2.run.receipt import Receipt, now, seal_folder

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
_UNK, _BOS, _EOS = 0, 1, 2  # LLaMA's
_LINE_BYTES = 1 << 16  # sentencepiece passes over longer training lines


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained or does not fit the recipe. The text is for the user."""


class Tokenizer:
    """The tokenizer in `folder`. Raises `TokenizerError` when there is none."""

    def __init__(self, folder: Path) -> None:
        self.model_file = folder / MODEL_FILE
        self._pieces = _load(self.model_file)
        self.pieces: int = self._pieces.get_piece_size()

    @property
    def vocabulary(self) -> int:
        """Number of ids, code tokens included."""
        return self.pieces + NUM_CODE_TOKENS

    @property
    def bos(self) -> int:
        return _BOS

    @property
    def eos(self) -> int:
        """`</s>`, which ends a document."""
        return _EOS

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

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Code tokens stand by their names; begin and end of a document are left out."""
        return "".join(self._decode_run(is_code, list(run)) for is_code, run in groupby(ids, key=lambda i: i >= self.pieces))

    def piece(self, token: int) -> str:
        """How the vocabulary writes one id."""
        return CODE_TOKENS[token - self.pieces] if token >= self.pieces else str(self._pieces.id_to_piece(token))

    def _decode_run(self, is_code: bool, run: list[int]) -> str:
        return "".join(self.piece(i) for i in run) if is_code else str(self._pieces.decode([int(i) for i in run]))


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
    pieces = _load(path)
    ids = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
    if pieces.get_piece_size() != settings.pieces:
        raise TokenizerError(
            f"tokenizer.pieces = {settings.pieces}, but {path} has {pieces.get_piece_size()} pieces: set tokenizer.pieces to that"
        )
    if ids != (_UNK, _BOS, _EOS):
        raise TokenizerError(
            f"{path} has unknown, begin and end at the ids {ids}; LLaMA's places {(_UNK, _BOS, _EOS)} are needed: train it so"
        )
    with durable_folder(folder) as beside:
        shutil.copyfile(path, beside / MODEL_FILE)
        return seal_folder(beside, _receipt(recipe, {"kind": settings.kind, "pieces": settings.pieces}, None))


def save_huggingface(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and its configuration into `folder`, and the sentencepiece model beside them.

    `AutoTokenizer` then gives the same ids on text. Unlike `encode` it reads the names of special tokens in
    text as those tokens, as its users expect. No `<s>` is put in front: training never sees one (K2 §2).
    """
    folder.mkdir(parents=True, exist_ok=True)
    _huggingface(tokenizer).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_huggingface_config(), indent=1) + "\n", "utf-8")
    shutil.copyfile(tokenizer.model_file, folder / MODEL_FILE)


class _Counted(Iterable[str]):
    """Lines of the texts until `limit` bytes are read."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self._texts, self._limit, self.bytes = texts, limit, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            for line in text.splitlines():
                size = len(line.encode()) + 1
                if self.bytes + size > self._limit:
                    return
                self.bytes += size
                if line and size <= _LINE_BYTES:
                    yield line


def _train(lines: Iterable[str], model: io.BytesIO, pieces: int) -> None:
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
            unk_id=_UNK,
            bos_id=_BOS,
            eos_id=_EOS,
            pad_id=-1,
            max_sentence_length=_LINE_BYTES,
            num_threads=1,  # the same pieces on any machine
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"tokenizer.pieces = {pieces} cannot be trained on this text ({_reason(error)}): ask for more pieces where the characters "
            "do not fit, for fewer or give more text (tokenizer.train_bytes, data.subsets) where the pieces are too many"
        ) from error


def _reason(error: RuntimeError) -> str:
    """The library's words without its source position."""
    return str(error).rpartition("] ")[2].split(". ")[0]


def _load(path: Path) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{path} is no sentencepiece model that can be read ({error}); give the path of a tokenizer.model") from error


def _receipt(recipe: str, facts: dict[str, Any], inputs: dict[str, str] | None) -> Receipt:
    return Receipt(kind="tokenizer", name="tokenizer", recipe=recipe, made_at=now(), inputs=inputs or {}, facts=facts)


def _huggingface(tokenizer: Tokenizer) -> Any:
    """The same pieces and merges in the `tokenizers` library's form."""
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Fast

    names = [tokenizer.piece(i) for i in range(tokenizer.pieces)]
    vocabulary = {name: i for i, name in enumerate(names)}
    fast = Fast(models.BPE(vocab=vocabulary, merges=_merges(vocabulary), unk_token=names[_UNK], fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = [names[_UNK], names[_BOS], names[_EOS], *CODE_TOKENS]
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return fast


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, in the order in which the pieces were learned (a BPE score is minus the rank)."""
    found = []
    for piece, rank in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((rank, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _huggingface_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": list(CODE_TOKENS),
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
