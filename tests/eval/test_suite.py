"""The suite is made from held-out text alone, asks the same of the same text, and asks what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from k2.data.stream import Stream
from k2.eval.held_out import HeldOutDocument, identifier_questions, passages, sums
from k2.eval.suite import build_suite, build_suites, read_held_out
from k2.eval.tasks import SuiteError, shipped_suites, tasks_of
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.layout import RunLayout
from k2.run.receipt import check_files, digest_file, read_receipt

TASKS = [
    "addition", "addition_choice", "bits_per_byte", "names_used", "next_identifier", "prompt_gallery", "swapped_words", "write_function",
]  # fmt: skip
CODE = """def width_of(items, margin):
    total = 0
    for item in items:
        total = total + item.width + margin
    return total


def depth_of(items, margin):
    depth = max(item.depth for item in items)
    return depth + margin
"""


def rows(layout: RunLayout, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (layout.suite("k2_tiny") / f"{name}.jsonl").open()]


def test_the_receipt_covers_every_file_and_names_the_held_out_text(prepared: RunLayout) -> None:
    folder = prepared.suite("k2_tiny")
    receipt = read_receipt(folder)
    assert (receipt.kind, receipt.name) == ("suite", "k2_tiny")
    assert receipt.inputs == {"held_out": digest_file(prepared.held_out)}
    assert check_files(folder, receipt) == []
    assert receipt.facts["tasks"] == [task.name for task in tasks_of("k2_tiny")] == TASKS
    assert receipt.facts["rows"] == {name: len(rows(prepared, name)) for name in receipt.facts["rows"]}
    assert {file.path for file in receipt.files} == {p.name for p in folder.iterdir()} - {"receipt.json"}


def test_the_same_held_out_text_gives_the_same_bytes(recipe: Recipe, prepared: RunLayout, tmp_path: Path) -> None:
    again = RunLayout(tmp_path / "again")
    again.held_out.parent.mkdir(parents=True)
    again.held_out.write_bytes(prepared.held_out.read_bytes())
    assert build_suite(recipe, Place(), again, "k2_tiny").digest == read_receipt(prepared.suite("k2_tiny")).digest


def test_a_built_suite_is_kept(recipe: Recipe, prepared: RunLayout) -> None:
    before = read_receipt(prepared.suite("k2_tiny"))
    assert build_suite(recipe, Place(), prepared, "k2_tiny") == before


def test_every_row_comes_from_a_document_that_is_never_trained_on(prepared: RunLayout) -> None:
    held_out = {document.id: document.text for document in read_held_out(prepared.held_out)}
    trained = {document.id for subset in ("prose", "code", "law") for document in Stream(prepared, subset).documents()}
    assert trained and not trained & set(held_out)
    for row in rows(prepared, "next_identifier"):
        assert row["context"] + row["options"][row["right"]] in held_out[row["document"]]
    for row in rows(prepared, "bits_per_byte"):
        assert row["text"] in held_out[row["document"]]
    assert {row["subset"] for row in rows(prepared, "bits_per_byte")} == {"prose", "code", "law"}


def test_the_options_stand_in_the_context_and_one_is_right(prepared: RunLayout) -> None:
    questions = rows(prepared, "next_identifier")
    assert len(questions) > 20
    for row in questions:
        assert len(set(row["options"])) == 4
        assert all(option in row["context"] for option in row["options"])
    assert {row["right"] for row in questions} == {0, 1, 2, 3}


def test_the_right_identifier_is_the_next_word_of_the_document() -> None:
    document = HeldOutDocument("d1", "code", CODE)
    questions = identifier_questions([document], 100)
    assert questions
    for question in questions:
        rest = CODE[CODE.index(question.context) + len(question.context) :]
        right = question.options[question.right]
        assert rest.startswith(right)
        assert not rest[len(right)].isidentifier()


def test_prose_asks_no_identifiers_and_passages_take_turns_over_the_subsets() -> None:
    prose = HeldOutDocument("p1", "prose", "It wasn't the fog (nor the rain.\n" * 9)
    law = [HeldOutDocument(f"l{i}", "law", f"{i}. The keeper shall keep the book, and shall not lend it.\n" * 9) for i in range(5)]
    assert identifier_questions([prose], 10) == []
    found = passages([prose, *law], 9)
    assert [p.subset for p in found[:2]] == ["law", "prose"]
    assert [p.subset for p in found[2:]] == ["law"] * 7
    assert all(64 <= len(p.text) <= 400 for p in found)
    assert passages([HeldOutDocument("s", "prose", "Too short.")], 3) == []


def test_half_of_the_names_are_used_and_half_are_foreign(prepared: RunLayout) -> None:
    held_out = {document.id: document.text for document in read_held_out(prepared.held_out)}
    questions = rows(prepared, "names_used")
    assert questions
    for row in questions:
        assert sum(row["right"]) == 2
        for name, right in zip(row["options"], row["right"], strict=True):
            assert (name in held_out[row["document"]]) >= right


def test_a_pair_is_a_line_and_the_line_with_two_words_swapped(prepared: RunLayout) -> None:
    pairs = rows(prepared, "swapped_words")
    assert {pair["subset"] for pair in pairs} == {"prose", "code", "law"}
    for pair in pairs:
        differ = [(a, b) for a, b in zip(pair["original"].split(), pair["swapped"].split(), strict=True) if a != b]
        assert len(differ) == 2
        assert differ[0] == differ[1][::-1]


def test_sums_add_up() -> None:
    for row in sums(43):
        a, _, b, _ = row.question.split()
        assert int(a) + int(b) == int(row.answer)
        assert row.options[row.right] == row.answer
        assert len(set(row.options)) == 4


def test_no_held_out_text_no_suite(recipe: Recipe, tmp_path: Path) -> None:
    empty = RunLayout(tmp_path / "empty")
    with pytest.raises(SuiteError, match=r"set data\.held_out above 0"):
        build_suite(recipe, Place(), empty, "k2_tiny")
    empty.held_out.parent.mkdir(parents=True)
    empty.held_out.write_text(json.dumps({"id": "a", "subset": "prose", "text": "No code here.\n" * 20}) + "\n")
    with pytest.raises(SuiteError, match=r"'next_identifier'.*needs Python code"):
        build_suite(recipe, Place(), empty, "k2_tiny")
    assert not empty.suite("k2_tiny").exists()


def test_an_unknown_suite_is_refused_with_those_there_are(recipe: Recipe, tmp_path: Path) -> None:
    other = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"suite": "k2_all"})})
    with pytest.raises(SuiteError, match="'k2_all' is not one of the shipped suites: k2_21, k2_tiny"):
        build_suites(other, Place(), RunLayout(tmp_path))
    assert shipped_suites() == ("k2_21", "k2_tiny")
