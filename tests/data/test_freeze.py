"""Freezing and reading: what is taken, what is dropped and why, what is held out."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from prepared import Prepared, with_subset

from k2.data.build import build
from k2.data.document import DataError, cut_to_bytes, document_id, is_held_out
from k2.data.freeze import freeze
from k2.data.installation import docstrings_of, read_installation
from k2.data.sources import cut, list_source, read_piece
from k2.recipe.data import FilesSource, PythonSource
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt

MINI = Path(__file__).parents[1] / "mini.toml"
BAD_LINES = [
    b'{"text": "good one"}',
    b"{not json",
    b"\xff\xfe broken",
    b'{"body": "no text here"}',
    b'{"text": 7}',
    b'["text"]',
    b'{"text": "  \\n "}',
    b'{"text": "half a pair \\ud800"}',
    b"",
    b'{"text": NaN}',
    b"[" * 100_000,
    b'{"text": "good two", "more": NaN}',
    b'{"text": "good one"}',
    b'{"text": "torn',
]


def read_files(source, data_dir):
    """All documents of the source, read in one piece a file."""
    place = Place(data_dir=str(data_dir))
    return [found for piece in cut(list_source(source, place), 1 << 40) for found in read_piece(source, place, piece)]


@pytest.fixture
def bad_recipe(tmp_path):
    """mini with prose from a file of mostly bad lines."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prose.jsonl").write_bytes(b"\n".join(BAD_LINES))
    for name in ("code", "law"):
        (tmp_path / "data" / f"{name}.jsonl").write_bytes((MINI.parent / "corpus" / f"{name}.jsonl").read_bytes())
    recipe = with_subset(load_recipe(str(MINI), ("data.held_out=0.0",)), "prose", duplicates="drop")
    return recipe, Place(data_dir=str(tmp_path / "data")), RunLayout(tmp_path / "run")


def built(recipe, place, layout) -> Prepared:
    build(recipe, place, layout, lambda _: None)
    return Prepared(recipe, place, layout)


def test_bad_lines_are_dropped_each_with_its_reason(bad_recipe):
    made = built(*bad_recipe)
    count = read_receipt(made.layout.stream("prose")).facts
    reasons = {"not JSON": 3, "not UTF-8": 1, "no text field": 2, "text is no string": 2, "empty": 1, "not encodable": 1}
    assert count["dropped"] == reasons
    assert (count["documents"], count["duplicates"]) == (2, 1)
    assert [(d.text, d.source, d.position) for d in made.documents("prose")] == [
        ("good one", "prose.jsonl", 0),
        ("good two", "prose.jsonl", len(b"\n".join(BAD_LINES[:11])) + 1),
    ]
    dropped = [json.loads(line) for line in (made.layout.shard("prose", 0) / "dropped.jsonl").open("rb")]
    assert Counter(one["reason"] for one in dropped) == reasons
    assert dropped[0] == {"source": "prose.jsonl", "position": len(BAD_LINES[0]) + 1, "reason": "not JSON"}


def test_a_file_that_changed_after_the_freeze_is_refused_by_name(bad_recipe):
    recipe, place, layout = bad_recipe
    freeze(recipe, place, layout, lambda _: None)
    with (Path(place.data_dir) / "law.jsonl").open("ab") as file:
        file.write(b'{"text": "one more"}\n')
    with pytest.raises(DataError, match=r"law.jsonl changed since the build began"):
        build(recipe, place, layout, lambda _: None)


def test_what_was_gathered_from_the_installation_is_never_gathered_again(tmp_path):
    tiny = load_recipe("k2_tiny")
    data = tiny.data.model_copy(update={"subsets": tuple(s for s in tiny.data.subsets if s.name in {"law", "reference"})})
    recipe, layout = tiny.model_copy(update={"data": data}), RunLayout(tmp_path / "run")
    first = freeze(recipe, Place(), layout, lambda _: None)
    texts = (layout.sources / "law.jsonl").read_bytes()
    assert first.facts["subsets"]["law"]["duplicates"] > 0
    assert freeze(recipe, Place(), layout, lambda _: None) == first
    assert (layout.sources / "law.jsonl").read_bytes() == texts


def test_the_same_files_elsewhere_are_the_same_sources(mini, tmp_path):
    """Times and tags tell this place whether a file changed; they are no part of what the receipt vouches for."""
    copied = shutil.copytree(mini.place.data_dir, tmp_path / "corpus", copy_function=shutil.copyfile)
    receipt = freeze(mini.recipe, Place(data_dir=str(copied)), RunLayout(tmp_path / "run"), lambda _: None)
    assert receipt.digest == read_receipt(mini.layout.sources).digest


def test_plain_text_and_source_files_are_one_document_each(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "b.py").write_text("b = 2\n")
    (tmp_path / "tree" / "a.txt").write_text("Text.\n")
    (tmp_path / "tree" / "c.txt").write_bytes(b"\xff")
    (tmp_path / "tree" / "d.txt").write_text(" \n")
    read = read_files(FilesSource(pattern="tree/*"), tmp_path)
    assert [(r.source, getattr(r, "text", None) or r.reason) for r in read] == [
        ("tree/a.txt", "Text.\n"),
        ("tree/b.py", "b = 2\n"),
        ("tree/c.txt", "not UTF-8"),
        ("tree/d.txt", "empty"),
    ]


@pytest.mark.parametrize("pattern", ["/etc/*", "../*.jsonl"])
def test_a_pattern_that_leads_out_of_the_data_folder_is_refused(tmp_path, pattern):
    with pytest.raises(DataError, match="must lie inside the place's data folder"):
        read_files(FilesSource(pattern=pattern), tmp_path)


def test_a_pattern_without_files_says_where_it_looked_and_leaves_nothing(bad_recipe, tmp_path):
    recipe, place, layout = bad_recipe
    (tmp_path / "data" / "law.jsonl").unlink()
    with pytest.raises(DataError, match=r"source.pattern = 'law.jsonl' names no file in .*data: put the files there"):
        freeze(recipe, place, layout, lambda _: None)
    assert not layout.root.exists() or list(layout.root.iterdir()) == []


def test_the_text_field_is_chosen_by_name(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"content": "here", "text": "not here"}\n')
    assert [r.text for r in read_files(FilesSource(pattern="x.jsonl", text_field="content"), tmp_path)] == ["here"]


def test_held_out_documents_are_in_no_subset_and_follow_from_their_id(mini):
    held_out = [json.loads(line) for line in mini.layout.held_out.open("rb")]
    trained = {d.id: d for s in mini.recipe.data.subsets for d in mini.documents(s.name)}
    assert 15 <= len(held_out) <= 45
    assert {d["subset"] for d in held_out} == {"prose", "code", "law"}
    for document in held_out:
        assert document["id"] == document_id(document["text"])
        assert document["id"] not in trained
        assert is_held_out(document["id"], 0.15)
    assert {d.text for d in trained.values()}.isdisjoint(d["text"] for d in held_out)


def test_the_held_out_share_is_about_what_was_asked():
    ids = [document_id(str(i)) for i in range(20_000)]
    assert 0.047 < sum(is_held_out(i, 0.05) for i in ids) / len(ids) < 0.053
    assert not any(is_held_out(i, 0.0) for i in ids)
    assert all(is_held_out(i, 1.0) for i in ids)


def test_the_cap_holds_and_cuts_at_a_line(mini):
    documents = mini.documents("law")
    assert 19_500 < sum(len(d.text.encode()) for d in documents) <= 20_000
    assert all(d.text.endswith("\n") for d in documents)
    assert cut_to_bytes("one\ntwo\n", 6) == "one\n"
    assert cut_to_bytes("éé", 3) == "é"
    assert cut_to_bytes("é", 1) == ""


@pytest.mark.parametrize("part", ["code", "reference", "licences", "metadata"])
def test_every_part_of_the_installation_gives_text_in_a_fixed_order(part):
    def first(count: int) -> list[tuple[str, int]]:
        found = read_installation(PythonSource(part=part))
        return [(next(found).source, i) for i in range(count)]

    assert first(12) == first(12)


def test_the_installation_is_read_and_never_imported():
    import subprocess
    import sys

    script = (
        "import sys; from k2.data.installation import read_installation; from k2.recipe.data import PythonSource\n"
        "before = set(sys.modules)\n"
        "for part in ('code', 'reference', 'licences'): list(read_installation(PythonSource(part=part)))\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "this" not in done.stdout and "antigravity" not in done.stdout
    assert done.stderr == ""


def test_docstrings_stand_under_their_names():
    source = '"""Module."""\nclass A:\n    """A class."""\n    def f(self):\n        """Does."""\n\ndef g(): pass\n'
    assert docstrings_of(source) == "Module.\n\nA\nA class.\n\nA.f\nDoes."
    assert docstrings_of("not python (") == ""
