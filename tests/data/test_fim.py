"""Fill-in-the-middle: the report's forms, the rates, and that all of it follows from (seed, document)."""

from collections import Counter

import pytest

from k2.data.document import document_id
from k2.data.encode import document_tokens
from k2.data.fim import Draw, arrange, draw, parts
from k2.data.stream import Stream
from k2.recipe.data import FillInTheMiddle
from k2.tokenizer import Tokenizer

TEXT = "def area(width, height):\n    return width * height\n"
HALF = FillInTheMiddle(rate=0.5, spm_rate=0.5)


@pytest.fixture(scope="module")
def tokenizer(mini) -> Tokenizer:
    return Tokenizer(mini.layout.tokenizer)


def arranged(tokenizer: Tokenizer, drawn: Draw) -> list[int]:
    *ids, end = arrange(tokenizer, drawn, tokenizer.encode_batch(parts(TEXT, drawn))).tolist()
    assert end == tokenizer.eos
    return ids


def test_psm_is_prefix_suffix_middle(tokenizer):
    encode = tokenizer.encode
    expected = [
        tokenizer.fim_prefix,
        *encode(TEXT[:9]),
        tokenizer.fim_suffix,
        *encode(TEXT[20:]),
        tokenizer.fim_middle,
        *encode(TEXT[9:20]),
    ]
    assert arranged(tokenizer, Draw("psm", 9, 20)) == expected


def test_spm_is_the_second_variant(tokenizer):
    encode = tokenizer.encode
    expected = [
        tokenizer.fim_prefix,
        tokenizer.fim_suffix,
        *encode(TEXT[20:]),
        tokenizer.fim_middle,
        *encode(TEXT[:9]),
        *encode(TEXT[9:20]),
    ]
    assert arranged(tokenizer, Draw("spm", 9, 20)) == expected


def test_plain_is_the_text(tokenizer):
    assert arranged(tokenizer, Draw("plain", 0, 0)) == tokenizer.encode(TEXT)


@pytest.mark.parametrize("cuts", [(0, 0), (0, len(TEXT)), (len(TEXT), len(TEXT)), (13, 13)])
def test_no_character_is_lost_at_any_cut(tokenizer, cuts):
    for form in ("psm", "spm"):
        ids = arranged(tokenizer, Draw(form, *cuts))
        marks = {tokenizer.fim_prefix, tokenizer.fim_middle, tokenizer.fim_suffix}
        assert sum(i in marks for i in ids) == 3
        assert sorted(tokenizer.decode([i for i in ids if i not in marks]).replace(" ", "")) == sorted(TEXT.replace(" ", ""))


def test_the_rates_are_k2s_half_and_quarter():
    forms = Counter(draw(1, document_id(str(i)), 100, HALF).form for i in range(20_000))
    assert forms["plain"] / 20_000 == pytest.approx(0.50, abs=0.015)
    assert forms["psm"] / 20_000 == pytest.approx(0.25, abs=0.015)
    assert forms["spm"] / 20_000 == pytest.approx(0.25, abs=0.015)


def test_rates_of_zero_and_one_are_exact():
    ids = [document_id(str(i)) for i in range(500)]
    assert {draw(1, i, 10, FillInTheMiddle(rate=0.0)).form for i in ids} == {"plain"}
    assert {draw(1, i, 10, FillInTheMiddle(rate=1.0, spm_rate=1.0)).form for i in ids} == {"spm"}
    assert {draw(1, i, 10, FillInTheMiddle(rate=1.0, spm_rate=0.0)).form for i in ids} == {"psm"}


def test_the_draw_follows_from_seed_and_document():
    assert draw(7, "a", 1000, HALF) == draw(7, "a", 1000, HALF)
    ids = [document_id(str(i)) for i in range(50)]
    assert [draw(7, i, 1000, HALF) for i in ids] != [draw(8, i, 1000, HALF) for i in ids]


def test_cuts_lie_inside_and_reach_both_ends():
    drawn = [draw(3, document_id(str(i)), 4, FillInTheMiddle(rate=1.0)) for i in range(2_000)]
    assert all(0 <= d.first <= d.second <= 4 for d in drawn)
    assert {d.first for d in drawn} == {d.second for d in drawn} == {0, 1, 2, 3, 4}


def test_only_code_becomes_fim(mini, tokenizer):
    forms = {s.name: Counter(d.form for d in Stream(mini.layout, s.name).documents()) for s in mini.recipe.data.subsets}
    assert set(forms["prose"]) == set(forms["law"]) == {"plain"}
    assert set(forms["code"]) == {"plain", "psm", "spm"}


def test_the_stream_is_every_document_and_its_end(mini, tokenizer):
    for subset in mini.recipe.data.subsets:
        stream = Stream(mini.layout, subset.name)
        expected = [document_tokens(tokenizer, mini.recipe, subset, d) for d in mini.documents(subset.name)]
        assert stream.read(0, stream.num_tokens).tolist() == [i for ids in expected for i in ids]
        assert all(ids[-1] == tokenizer.eos and tokenizer.eos not in ids[:-1] and tokenizer.bos not in ids for ids in expected)
