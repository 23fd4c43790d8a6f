"""The fast encoder beside sentencepiece: the same ids, or sentencepiece itself and a word why."""

import io
import random
import sys

import numpy as np
import pytest
import sentencepiece

from benchmarks.fuzz_tokenizer import differing, hard_texts, python_sources, stand_in
from k2.recipe.data import FileTokenizer
from k2.tokenizer import MODEL_FILE, Tokenizer, install_tokenizer, save_huggingface

# LLaMA's settings are the first; each of the others changes one thing that a model of a user may have
MODELS = {
    "llama": ({}, None),
    "no dummy prefix": ({"add_dummy_prefix": False}, None),
    "compatibility characters": ({"normalization_rule_name": "nmt_nfkc"}, "rewrites characters (normalizer 'nmt_nfkc')"),
    "extra spaces removed": ({"remove_extra_whitespaces": True}, "removes spaces"),
    "no byte fallback": ({"byte_fallback": False}, "no byte fallback"),
    "unigram": ({"model_type": "unigram"}, "no BPE model"),
    "user-defined pieces": ({"user_defined_symbols": ["<fim_prefix>"]}, "user-defined or unused pieces"),
    "spaces behind": ({"treat_whitespace_as_suffix": True}, "marks spaces in another way"),
}


def train(texts, folder, **changes):
    model = io.BytesIO()
    settings = {
        "model_type": "bpe", "vocab_size": 500, "byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "character_coverage": 0.99995,
        "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "minloglevel": 2, "hard_vocab_limit": False,
    } | changes  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line), model_writer=model, **settings
    )
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    return folder


def test_hard_texts_and_real_ones_get_sentencepieces_ids(tokenizer, texts, caplog):
    assert differing(tokenizer, [*texts, *hard_texts(seed=7, count=2000)]) == []
    assert caplog.text == ""
    assert {ids.dtype for ids in tokenizer.encode_batch(texts[:3])} == {np.dtype(np.uint16)}
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_user_is_encoded_as_sentencepiece_does(texts, tmp_path, caplog, name):
    changes, reason = MODELS[name]
    tokenizer = Tokenizer(train(texts, tmp_path / "model", **changes))
    assert differing(tokenizer, [*texts[::5], *hard_texts(seed=8, count=300)]) == []
    if reason is None:
        assert caplog.text == ""
    else:
        assert caplog.text.count("is encoded by sentencepiece, at an eighth of the speed: it ") == 1
        assert reason in caplog.text
        save_huggingface(tokenizer, tmp_path / "export")
        assert [path.name for path in (tmp_path / "export").iterdir()] == [MODEL_FILE]  # and no file that would lie


def test_a_llama_sized_model_works_as_the_trained_one(tmp_path, caplog):
    made = stand_in(tmp_path / "made", pieces=32_000, train_bytes=4_000_000)
    install_tokenizer(made.model_file, tmp_path / "installed", FileTokenizer(path="llama.model", pieces=32_000), "0" * 64)
    tokenizer = Tokenizer(tmp_path / "installed")
    assert tokenizer.code_token("<fim_prefix>") == 32_000
    assert differing(tokenizer, [*python_sources(400_000), *hard_texts(seed=9, count=1000)]) == []
    assert caplog.text == ""


def test_without_the_fast_library_sentencepiece_encodes_and_it_is_said_once(texts, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    tokenizer = Tokenizer(train(texts, tmp_path / "model"))
    assert differing(tokenizer, texts[:20]) == differing(tokenizer, texts[20:40]) == []
    assert caplog.text.count("gigatoken cannot be loaded") == 1


def test_the_pieces_of_overlapping_merges_are_those_of_the_leftmost(tmp_path):
    """A vocabulary of two letters, in which nearly every merge competes with its neighbour."""
    draw = random.Random(3)
    words = ["".join(draw.choices("ab ", k=draw.randint(1, 200))) for _ in range(300)]
    tokenizer = Tokenizer(train(words, tmp_path / "model", vocab_size=400))
    assert differing(tokenizer, ["".join(draw.choices("ab ", k=draw.randint(0, 90))) for _ in range(2000)]) == []
