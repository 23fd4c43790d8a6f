"""The tokenizer through its public door, and beside Hugging Face's on the same pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from k2.recipe.data import FileTokenizer, TrainedTokenizer
from k2.run.receipt import check_files, read_receipt
from k2.tokenizer import CODE_TOKENS, MODEL_FILE, Tokenizer, TokenizerError, install_tokenizer, save_huggingface, train_tokenizer

SPELLED = ["</s>", "<s>", "<unk>", "<fim_prefix>", "a<fim_middle>b", "<fim_suffix> <reponame>", "<0x0A>", "x </s>\n<s> y", *CODE_TOKENS]


def test_training_twice_gives_the_same_bytes_and_a_receipt(texts, settings, tmp_path):
    one = train_tokenizer(texts, tmp_path / "one", settings, "0" * 64, {"sources": "1" * 64})
    two = train_tokenizer(texts, tmp_path / "two", settings, "0" * 64, {"sources": "1" * 64})
    assert one.digest == two.digest
    assert (tmp_path / "one" / MODEL_FILE).read_bytes() == (tmp_path / "two" / MODEL_FILE).read_bytes()
    assert one.facts["trained_on_bytes"] <= 60_000
    assert read_receipt(tmp_path / "one") == one
    assert check_files(tmp_path / "one", one) == []


def test_training_is_quiet(texts, settings, tmp_path, capfd):
    train_tokenizer(texts, tmp_path / "quiet", settings, "0" * 64)
    assert capfd.readouterr() == ("", "")


def test_the_code_tokens_follow_the_pieces_in_k2s_order(tokenizer):
    assert tokenizer.pieces == 430
    assert tokenizer.vocabulary == 448
    assert [tokenizer.code_token(name) for name in CODE_TOKENS] == list(range(430, 448))
    # K2 §2: 32000 <fim_prefix>, 32001 <fim_middle>, 32002 <fim_suffix> ... 32017 <reponame>
    assert (tokenizer.fim_prefix, tokenizer.fim_middle, tokenizer.fim_suffix) == (430, 431, 432)
    assert (CODE_TOKENS[3], CODE_TOKENS[9], CODE_TOKENS[17]) == ("<fim_pad>", "<jupyter_start>", "<reponame>")
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)


@pytest.mark.parametrize("text", SPELLED)
def test_the_names_of_special_tokens_in_text_stay_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(3 <= i < tokenizer.pieces for i in ids)
    assert tokenizer.decode(ids) == text


@hypothesis_settings(max_examples=300, deadline=None)
@given(text=st.lists(st.one_of(st.text(), st.sampled_from([*SPELLED, " ", "  ", "\n\n", "\t"]))).map("".join))
def test_any_text_comes_back_and_holds_no_special_id(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(3 <= i < tokenizer.pieces for i in ids)
    assert tokenizer.decode(ids) == text.replace("▁", " ")  # sentencepiece's own sign for a space


def test_digits_are_split_and_unknown_characters_are_bytes(tokenizer):
    assert [tokenizer.piece(i) for i in tokenizer.encode("2026")] == ["▁", "2", "0", "2", "6"]
    assert [tokenizer.piece(i) for i in tokenizer.encode("漢")][1:] == ["<0xE6>", "<0xBC>", "<0xA2>"]


def test_decoding_names_code_tokens_and_leaves_out_the_end(tokenizer):
    ids = [tokenizer.fim_prefix, *tokenizer.encode("a = "), tokenizer.fim_suffix, *tokenizer.encode(" + b"), tokenizer.eos]
    assert tokenizer.decode(ids) == "<fim_prefix>a = <fim_suffix> + b"


def test_plain_autotokenizer_gives_the_same_ids(tokenizer, texts, tmp_path):
    from transformers import AutoTokenizer

    save_huggingface(tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts, "", " ", "  two\n\n\tthree ", "é漢 \x00 😀 e\u0301", "a" * 5000]:
        assert theirs(text).input_ids == tokenizer.encode(text)
        assert theirs.decode(theirs(text).input_ids) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id, len(theirs)) == (1, 2, 0, 448)
    assert theirs.convert_tokens_to_ids(list(CODE_TOKENS)) == list(range(430, 448))
    assert theirs("<fim_prefix>def f():").input_ids == [tokenizer.fim_prefix, *tokenizer.encode("def f():")]
    assert (tmp_path / MODEL_FILE).read_bytes() == tokenizer.model_file.read_bytes()


def test_a_model_that_the_user_brings_works_as_a_trained_one(tokenizer, tmp_path):
    settings = FileTokenizer(path="mine.model", pieces=430)
    install_tokenizer(tokenizer.model_file, tmp_path / "installed", settings, "0" * 64)
    assert Tokenizer(tmp_path / "installed").encode("the harbour") == tokenizer.encode("the harbour")


def test_a_model_with_other_pieces_is_refused(tokenizer, tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer.pieces = 32000, but .* has 430 pieces: set"):
        install_tokenizer(tokenizer.model_file, tmp_path / "installed", FileTokenizer(path="x", pieces=32000), "0" * 64)
    assert not (tmp_path / "installed").exists()


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="no sentencepiece model"):
        Tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="no sentencepiece model"):
        Tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(("pieces", "why"), [(300, "smaller than required_chars"), (60_000, "too high")])
def test_pieces_that_the_text_cannot_give_are_refused(texts, tmp_path, pieces, why):
    with pytest.raises(TokenizerError, match=rf"tokenizer.pieces = {pieces} .*{why}.*ask for"):
        train_tokenizer(texts, tmp_path / "t", TrainedTokenizer(pieces=pieces), "0" * 64)
    assert list(tmp_path.iterdir()) == []
