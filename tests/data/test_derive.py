"""Rows derived anew from the raw text: equal to what was built, and unequal to anything that was forged."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from k2.data.audit import verify
from k2.data.chunk import chunk_receipt
from k2.data.derive import derive, some_steps
from k2.recipe.place import Place
from k2.run.ledger import SamplesSkipped, StepsSkipped
from k2.run.receipt import RECEIPT, digest_files, read_receipt, write_receipt


def every_step(prepared):
    return [(stage.name, step) for stage in prepared.recipe.stages for step in range(1, stage.steps + 1)]


def faults(prepared, steps, place=None):
    return derive(prepared.recipe, place or prepared.place, prepared.layout, [], steps).bad


def reseal(layout, stage, chunk):
    """Write the receipts anew, so that every digest agrees with what was forged."""
    path, rows, index = chunk_receipt(layout, stage, chunk), layout.chunk(stage, chunk), layout.chunk_index(stage, chunk)
    receipt = write_receipt(path, read_receipt(path).model_copy(update={"files": digest_files(rows.parent, [rows, index])}))
    above = read_receipt(layout.all_chunks)
    write_receipt(layout.all_chunks / RECEIPT, above.model_copy(update={"inputs": {**above.inputs, receipt.name: receipt.digest}}))
    assert verify(layout.root).bad == ()


def test_every_row_of_every_step_is_what_its_text_gives(mini):
    found = derive(mini.recipe, mini.place, mini.layout, [], every_step(mini))
    assert found.bad == ()
    assert found.rows == sum(stage.chunks * stage.samples_per_chunk for stage in mini.recipe.stages)
    assert found.documents >= found.rows
    assert len(found.steps) == 28


def test_a_row_that_was_forged_with_all_its_receipts_is_found(own_copy):
    path = own_copy.layout.chunk("stage1", 1)
    rows = np.fromfile(path, "<u2").reshape(-1, 32)
    rows[6, 5], rows[6, 6] = rows[6, 6] + 1, rows[6, 5]
    rows.tofile(path)
    reseal(own_copy.layout, "stage1", 1)
    assert faults(own_copy, [("stage1", 9)]) == ()
    [said] = faults(own_copy, [("stage1", 10)])
    assert said == "stage1 step 10, row 6 of stage1/chunk_001: 2 of 32 token ids differ from its text's, the first at 5"


def test_an_index_that_leads_elsewhere_is_found(own_copy):
    path = own_copy.layout.chunk_index("stage1", 0)
    index = np.load(path)
    index[0, 2] += 1
    np.save(path, index)
    reseal(own_copy.layout, "stage1", 0)
    [said] = faults(own_copy, [("stage1", 1)])
    assert said.startswith("stage1 step 1, row 0 of stage1/chunk_000: the index leads to other documents")


def test_text_that_changed_is_found(mini, tmp_path):
    corpus = shutil.copytree(Path(mini.place.data_dir), tmp_path / "corpus")
    prose = corpus / "prose.jsonl"
    prose.write_bytes(prose.read_bytes().replace(b" the ", b" teh "))
    found = faults(mini, every_step(mini), Place(data_dir=str(corpus)))
    assert found
    assert all("its text cannot be had again: prose.jsonl holds another text at position" in line for line in found)
    prose.unlink()
    assert any("prose.jsonl" in line for line in faults(mini, every_step(mini), Place(data_dir=str(corpus))))


def test_a_chunk_that_is_gone_is_named(own_copy):
    own_copy.layout.chunk("stage1", 2).unlink()
    [said] = faults(own_copy, [("stage1", 17)])
    assert "chunk_002.bin does not hold 32 rows of 32 tokens" in said


def test_the_same_seed_draws_the_same_steps_and_never_a_skipped_one(mini):
    facts = [StepsSkipped(stage="stage1", first_step=3, last_step=20, who="w", why="y")]
    drawn = some_steps(mini.recipe, facts, 6, 7)
    assert drawn == some_steps(mini.recipe, facts, 6, 7)
    assert some_steps(mini.recipe, [], 6, 7) != some_steps(mini.recipe, [], 6, 8)
    assert len(set(drawn)) == 6
    skipped = {("stage1", step) for step in range(3, 21)}
    assert set(some_steps(mini.recipe, facts, 100, 7)) == set(every_step(mini)) - skipped


@pytest.mark.parametrize("skipped", [1, 2])
def test_a_step_with_skipped_rows_is_derived_from_the_rows_that_are_left(mini, skipped):
    rows = SamplesSkipped(stage="stage1", chunk=0, first_row=0, last_row=skipped - 1, who="w", why="y")
    found = derive(mini.recipe, mini.place, mini.layout, [rows], [("stage1", 1)])
    assert (found.rows, found.bad) == (4 - skipped, ())
