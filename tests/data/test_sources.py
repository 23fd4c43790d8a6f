"""Sources: the same documents however a file is cut, and each of them again by its place."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from k2.data.build import build
from k2.data.document import DataError, Dropped, Found
from k2.data.lines import lines_of_range
from k2.data.sources import bundle, cut, list_source, read_one, read_piece
from k2.recipe.data import FilesSource, PythonSource
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt

MINI = Path(__file__).parents[1] / "mini.toml"

TEXTS = [f"document {number} " + "word é漢😀 " * (number % 7) for number in range(50)]


@pytest.fixture
def place(tmp_path):
    return Place(data_dir=str(tmp_path))


def read_all(source, place, piece_bytes=1 << 40):
    return [found for piece in cut(list_source(source, place), piece_bytes) for found in read_piece(source, place, piece)]


def write_lines(path, texts, end="\n"):
    path.write_bytes(b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + end.encode() for text in texts))


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 1000, 1 << 20])
def test_the_documents_are_the_same_however_the_files_are_cut(tmp_path, place, piece_bytes):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    write_lines(tmp_path / "b.jsonl", TEXTS[::-1], "\r\n")
    (tmp_path / "c.jsonl").write_bytes(b"")
    source = FilesSource(pattern="*.jsonl")
    whole = read_all(source, place)
    assert [found.text for found in whole[:-1]] == TEXTS + TEXTS[::-1]
    assert whole[-1] == Dropped("c.jsonl", 0, "empty")
    assert read_all(source, place, piece_bytes) == whole
    pieces = cut(list_source(source, place), piece_bytes)
    assert sum(piece.end - piece.begin for piece in pieces) == sum(file.bytes for file in list_source(source, place))
    assert {piece.file.name for piece in pieces} == {"a.jsonl", "b.jsonl", "c.jsonl"}


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=60).map(lambda b: bytes(b"ab\n"[byte % 3] for byte in b)),
    block=st.integers(1, 9),
    limit=st.sampled_from([2, 5, 100]),
    cuts=st.sets(st.integers(1, 59)),
)
def test_every_line_is_read_once_by_the_range_in_which_it_begins(content, block, limit, cuts):
    expected, position = [], 0
    for line in content.split(b"\n"):
        expected.append((position, line if len(line) <= limit else None))
        position += len(line) + 1
    if not expected[-1][1] and expected[-1][0] == len(content):
        expected.pop()  # behind the last line end there is no line

    def blocks_from(begin):
        return (content[at : at + block] for at in range(begin, len(content), block))

    edges = [0, *sorted(edge for edge in cuts if edge < len(content)), len(content)]
    read = [line for begin, end in pairwise(edges) for line in lines_of_range(blocks_from, begin, end, limit)]
    assert [(line.position, line.content) for line in read] == expected


def test_a_document_is_found_again_at_its_position(tmp_path, place):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "b.py").write_text("b = 2\n")
    source = FilesSource(pattern="*")
    for found in read_all(source, place, 100):
        assert read_one(source, place, found.source, found.position) == found
    with pytest.raises(DataError, match=r"a\.jsonl has no document at position 3: it is not the file that"):
        read_one(source, place, "a.jsonl", 3)
    with pytest.raises(DataError, match=r"c\.jsonl is gone"):
        read_one(source, place, "c.jsonl", 0)


def test_a_document_of_the_installation_is_found_again(place):
    source = PythonSource(part="reference")
    (piece,) = cut(list_source(source, place), 10)
    found = [next(read_piece(source, place, piece)) for _ in range(2)]
    assert found[0] == found[1] == read_one(source, place, found[0].source, found[0].position)


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path, place):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    source = FilesSource(pattern="*")
    pieces = cut(list_source(source, place), 100)
    write_lines(tmp_path / "a.jsonl", TEXTS[1:])
    with pytest.raises(DataError, match=r"a\.jsonl changed since the build began"):
        list(read_piece(source, place, pieces[0]))


def test_a_member_of_a_member_is_named_with_a_dot(tmp_path, place):
    (tmp_path / "x.jsonl").write_text('{"a": {"b": "inner"}}\n{"a.b": "as it stands", "a": {"b": "no"}}\n{"a": "flat"}\n')
    read = read_all(FilesSource(pattern="x.jsonl", text_field="a.b"), place)
    assert read == [Found("x.jsonl", 0, "inner"), Found("x.jsonl", 22, "as it stands"), Dropped("x.jsonl", 64, "no text field")]


def test_a_source_tree_of_many_files_becomes_few_shards(tmp_path):
    """And the shards of one large file stay as they were."""
    (tmp_path / "data" / "tree").mkdir(parents=True)
    for number in range(300):
        (tmp_path / "data" / "tree" / f"{number:03d}.py").write_text(f"{TEXTS[number % 50]}\nx = {number}\n")
    for name in ("code", "law"):
        (tmp_path / "data" / f"{name}.jsonl").write_bytes((MINI.parent / "corpus" / f"{name}.jsonl").read_bytes())
    recipe = load_recipe(str(MINI), ('data.subsets.prose.source.pattern="tree/*.py"', "data.shard_bytes=400_000", "data.held_out=0.0"))
    layout = RunLayout(tmp_path / "run")
    build(recipe, Place(data_dir=str(tmp_path / "data")), layout, lambda _: None)
    receipts = [read_receipt(layout.shard("prose", shard)) for shard in range(4)]
    assert [receipt.facts["made_from"]["file"] for receipt in receipts] == [f"tree/{number:03d}.py" for number in (0, 97, 194, 291)]
    assert sum(receipt.facts["counts"]["documents"] for receipt in receipts) == 300
    place = Place(data_dir=str(tmp_path / "data"))
    assert [len(pieces) for pieces in bundle(cut(list_source(FilesSource(pattern="code.jsonl"), place), 5000), 5000)][:3] == [1, 1, 1]
