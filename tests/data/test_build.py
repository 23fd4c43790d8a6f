"""Two builds give the same bytes, whatever happened in between."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from k2.data.audit import verify
from k2.data.build import build
from k2.data.chunk import chunk_receipt
from k2.data.document import DataError
from k2.recipe.load import digest, load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt

TESTS = Path(__file__).parents[1]

# Prints each line of progress and waits for an answer, so that the parent kills it at a known place.
CHILD = """
import sys
from pathlib import Path
from k2.data.build import build
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout
def progress(line):
    print(line, flush=True)
    sys.stdin.readline()
build(load_recipe(sys.argv[1]), Place(data_dir=sys.argv[2]), RunLayout(Path(sys.argv[3])), progress)
"""


def build_and_kill(root: Path, after: str) -> None:
    """Build in a process of its own and SIGKILL it right after it said `after`."""
    argv = [sys.executable, "-c", CHILD, str(TESTS / "mini.toml"), str(TESTS / "corpus"), str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        for line in child.stdout:
            if after in line:
                child.kill()
                break
            child.stdin.write("\n")
            child.stdin.flush()
        assert child.wait() == -9


def test_two_builds_are_byte_identical(mini, tmp_path):
    again = RunLayout(tmp_path / "again")
    receipt = build(mini.recipe, mini.place, again, lambda _: None)
    assert receipt.digest == read_receipt(mini.layout.all_chunks).digest
    assert {
        str(p.relative_to(again.root)): p.read_bytes() for p in again.root.rglob("*") if p.is_file() and p.suffix != ".json"
    } == mini.content()


@pytest.mark.parametrize(
    "after", ["froze code", "trained a tokenizer", "encoded prose", "built stage1 chunk 001", "built stage2 chunk 000"]
)
def test_a_killed_build_goes_on_and_gives_the_same_bytes(mini, tmp_path, after):
    build_and_kill(tmp_path / "run", after)
    layout = RunLayout(tmp_path / "run")
    assert not (layout.all_chunks / "receipt.json").exists()
    kept = {p: p.read_bytes() for p in layout.root.rglob("*.json") if not any(part.startswith(".tmp-") for part in p.parts)}
    receipt = build(mini.recipe, mini.place, layout, lambda _: None)
    assert receipt.digest == read_receipt(mini.layout.all_chunks).digest
    assert all(path.read_bytes() == content for path, content in kept.items()), "a finished part was made again"
    for path in layout.root.glob(".tmp-*"):
        assert path.name.startswith(".tmp-sources")  # swept by whoever takes the run's lease
    assert {n: c for n, c in type(mini)(mini.recipe, mini.place, layout).content().items() if not n.startswith(".tmp-")} == mini.content()
    assert verify(layout.chunks("stage1")).bad == verify(layout.tokens).bad == ()


def test_rows_without_a_receipt_are_made_again(own_copy, mini):
    """A crash between the rows and their receipt leaves rows that nobody vouches for."""
    layout = own_copy.layout
    (layout.all_chunks / "receipt.json").unlink()
    chunk_receipt(layout, "stage1", 1).unlink()
    layout.chunk("stage1", 1).write_bytes(b"half")
    (layout.chunks("stage1") / ".tmp-chunk_001.bin-12345678").write_bytes(b"half")
    build(own_copy.recipe, own_copy.place, layout, lambda _: None)
    assert own_copy.content() == mini.content()


def test_a_prepared_run_is_left_alone(mini):
    said: list[str] = []
    assert build(mini.recipe, mini.place, mini.layout, said.append) == read_receipt(mini.layout.all_chunks)
    assert said == []


def test_data_of_another_recipe_is_not_taken(own_copy):
    other = load_recipe(str(TESTS / "mini.toml"), ("seed=5",))
    with pytest.raises(DataError, match="prepared for another recipe"):
        build(other, own_copy.place, own_copy.layout, lambda _: None)


def test_another_seed_gives_another_sequence_of_the_same_text(mini, tmp_path):
    other = load_recipe(str(TESTS / "mini.toml"), ("seed=5",))
    layout = RunLayout(tmp_path / "run")
    build(other, mini.place, layout, lambda _: None)
    assert layout.chunk("stage1", 0).read_bytes() != mini.layout.chunk("stage1", 0).read_bytes()
    assert (layout.shard("prose", 0) / "tokens.bin").read_bytes() == (mini.layout.shard("prose", 0) / "tokens.bin").read_bytes()


def test_too_little_text_is_refused_and_nothing_finished_is_lost(tmp_path):
    recipe = load_recipe(str(TESTS / "mini.toml"), ("stages.stage2.chunks=200",))
    layout = RunLayout(tmp_path / "run")
    with pytest.raises(DataError, match=r"stages.stage2 needs 1600 samples of 128 tokens .* train at most \d+ chunks"):
        build(recipe, Place(data_dir=str(TESTS / "corpus")), layout, lambda _: None)
    assert not layout.chunk("stage1", 0).exists()
    assert verify(layout.tokens).bad == ()


def test_the_receipts_say_what_lies_there(mini):
    receipt = read_receipt(mini.layout.all_chunks)
    assert (receipt.kind, receipt.name, receipt.recipe) == ("chunks", "chunks", digest(mini.recipe))
    assert receipt.inputs["tokenizer"] == read_receipt(mini.layout.tokenizer).digest
    assert receipt.facts["held_out"] == len(mini.layout.held_out.read_bytes().splitlines())
    for stage in mini.recipe.stages:
        facts = receipt.facts["stages"][stage.name]
        assert (facts["samples"], facts["tokens"]) == (stage.chunks * stage.samples_per_chunk, stage.tokens)
        assert sum(s["samples"] for s in facts["subsets"].values()) == facts["samples"]
        for number in range(stage.chunks):
            chunk = read_receipt(chunk_receipt(mini.layout, stage.name, number))
            assert receipt.inputs[chunk.name] == chunk.digest
            assert (chunk.facts["samples"], chunk.facts["context"]) == (stage.samples_per_chunk, stage.context)
            assert sum(chunk.facts["subsets"].values()) == stage.samples_per_chunk
            assert mini.layout.chunk(stage.name, number).stat().st_size == 2 * chunk.facts["tokens"]


def test_no_index_needs_pickle_and_every_row_is_tiled_by_its_documents(mini):
    for stage in mini.recipe.stages:
        for number in range(stage.chunks):
            index = np.load(mini.layout.chunk_index(stage.name, number), allow_pickle=False)
            for row in range(stage.samples_per_chunk):
                entries = index[index[:, 0] == row]
                assert entries[0, 4] == 0 and entries[-1, 5] == stage.context
                assert (entries[1:, 4] == entries[:-1, 5]).all() and (entries[:, 5] > entries[:, 4]).all()


def test_the_miniature_is_built_from_this_installation(tmp_path):
    """k2_tiny, whole: every subset is there on any machine, and stage 2 repacks at its own context."""
    recipe = load_recipe("k2_tiny")
    receipt = build(recipe, Place(), RunLayout(tmp_path / "run"), lambda _: None)
    stages = receipt.facts["stages"]
    assert (stages["stage1"]["samples"], stages["stage2"]["samples"]) == (7680, 320)
    assert {name: s["repeat"] for name, s in stages["stage1"]["subsets"].items()} == {
        "web": 1.0,
        "reference": 6.0,
        "docstrings": 1.0,
        "law": 3.0,
        "code": 0.5,
    }
    assert all(s["per_chunk_max"] - s["per_chunk_min"] <= 1 for stage in stages.values() for s in stage["subsets"].values())
    assert receipt.facts["held_out"] >= 8
    code_held_out = [d for d in map(json.loads, RunLayout(tmp_path / "run").held_out.open("rb")) if d["subset"] == "code"]
    assert code_held_out
