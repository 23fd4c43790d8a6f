"""The pieces of a sentencepiece model in the form of Hugging Face's `tokenizers`, without any special token.

Enters a model; leaves a tokenizer that gives the same ids on text for the models that `why_not_same` lets pass: BPE with
byte fallback and the identity as normalizer, as LLaMA's and ours are. Special tokens are left out on purpose: any that are
added would be found in the text of documents (K2's published preparation encodes a web page's `</s>` as the end of it).
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

_BPE = 2  # sentencepiece_model.proto: TrainerSpec.ModelType
_KINDS = {1, 2, 3, 6}  # ModelProto.SentencePiece.Type: normal, unknown, control, byte; not user-defined, not unused


def read_model(path: Path) -> Any:
    """The `ModelProto` of the file."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def why_not_same(model: Any) -> str | None:
    """Why the other form would not give the same ids on every text, from the model's settings; None when it does."""
    trained, normalizer = model.trainer_spec, model.normalizer_spec
    scores = [piece.score for piece in model.pieces if piece.type == 1]
    reasons = (
        (trained.model_type != _BPE, "it is no BPE model"),
        (not trained.byte_fallback, "it has no byte fallback"),
        (trained.treat_whitespace_as_suffix or not normalizer.escape_whitespaces, "it marks spaces in another way"),
        (bool(normalizer.precompiled_charsmap), f"it rewrites characters (normalizer {normalizer.name!r})"),
        (normalizer.remove_extra_whitespaces, "it removes spaces"),
        (not {piece.type for piece in model.pieces} <= _KINDS, "it has user-defined or unused pieces"),
        (any(first <= second for first, second in pairwise(scores)), "its pieces are not in the order of merging"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def plain_form(model: Any) -> Any:
    """The `tokenizers.Tokenizer` of the same pieces and merges."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {piece.piece: token for token, piece in enumerate(model.pieces)}
    unknown = model.pieces[model.trainer_spec.unk_id].piece
    form = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    escape, unescape = normalizers.Replace(" ", "▁"), [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.normalizer_spec.add_dummy_prefix:
        form.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), escape])
        form.decoder = decoders.Sequence([*unescape, decoders.Strip(" ", 1, 0)])
    else:
        form.normalizer, form.decoder = escape, decoders.Sequence(unescape)
    return form


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, in the order in which the pieces were learned (a BPE score is minus the rank)."""
    found = []
    for piece, rank in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((rank, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
