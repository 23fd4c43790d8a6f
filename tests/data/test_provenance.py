"""A chunk tells by itself which documents lie in its rows: from its published files alone, without the run."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from k2.data.chunk import chunk_files, read_index, spans
from k2.data.document import document_id
from k2.data.freeze import frozen
from k2.data.seen import accepted, seen_by_step, steps_of_document
from k2.data.sources import read_one
from k2.data.stream import Stream
from k2.publish.card import describe_data
from k2.recipe.load import digest
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted
from k2.run.receipt import Receipt
from k2.run.records import StepRecord

FACTS = [AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)]


def told(layout, stage, chunk):
    documents = np.load(layout.chunk_documents(stage, chunk), allow_pickle=False)
    lines = layout.chunk_files(stage, chunk).read_text().splitlines()
    return documents, {(line["subset"], line["file"]): line["name"] for line in map(json.loads, lines)}


def test_every_document_of_the_index_is_told_once_and_leads_to_its_text(mini):
    streams = [Stream(mini.layout, subset.name) for subset in mini.recipe.data.subsets]
    files = [frozen(mini.place, mini.layout, subset) for subset in mini.recipe.data.subsets]
    for stage in mini.recipe.stages:
        for chunk in range(stage.chunks):
            documents, names = told(mini.layout, stage.name, chunk)
            index = read_index(mini.layout, stage.name, chunk)
            assert {(s.subset, s.document) for s in spans(index)} == {(int(d["subset"]), int(d["document"])) for d in documents}
            assert len(documents) == len({(int(d["subset"]), int(d["document"])) for d in documents})
            for one in documents:
                known = streams[one["subset"]].document(int(one["document"]))
                assert f"{one['high']:016x}{one['low']:08x}" == known.id
                name = names[int(one["subset"]), int(one["file"])]
                text = read_one(files[one["subset"]].source, mini.place, name, int(one["position"])).text
                assert document_id(text.encode()[: one["text_bytes"]].decode("utf-8", "replace")) == known.id


def test_the_words_beside_published_data_answer_for_a_row(mini, tmp_path):
    stage = mini.recipe.stage("stage1")
    for path in chunk_files(mini.layout, "stage1", 1):
        (tmp_path / "stage1").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / "stage1" / path.name)
    facts = {"stage": "stage1", "chunk": 1}
    checkpoint = Receipt(
        kind="checkpoint", name="ckpt_002", recipe=digest(mini.recipe), made_at="2026-01-01T00:00:00.000+00:00", facts=facts
    )
    words = describe_data(mini.recipe, checkpoint, [1])
    assert "| `stage1/chunk_001` | 9 to 16 |" in words
    [script] = re.findall(r"```python\n(.*?)```", words, re.DOTALL)
    for row in (0, stage.samples_per_chunk - 1):
        script = re.sub(r"row = ([^,]+), \d+ ", rf"row = \1, {row} ", script)
        said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        stream = {subset.name: Stream(mini.layout, subset.name) for subset in mini.recipe.data.subsets}
        expected = []
        for span in spans(read_index(mini.layout, "stage1", 1)):
            if span.row == row:
                name = mini.recipe.data.subsets[span.subset].name
                known = stream[name].document(span.document)
                expected.append(f"{span.row_start} {span.row_end} {known.id} {name} {name}.jsonl {known.position} {span.token_start}")
        assert said.splitlines() == expected


def test_a_restored_run_answers_both_ways_as_the_run_itself(own_copy, tmp_path):
    path = own_copy.layout.metrics("stage1", 1)
    path.parent.mkdir(parents=True)
    path.write_text("".join(StepRecord(1, "stage1", step, 3.0, 1.0, 1e-3, step, 0.1).line() for step in range(1, 25)))
    recipe, whole, restored = own_copy.recipe, own_copy.layout, RunLayout(tmp_path / "restored")
    shutil.copytree(whole.root, restored.root, ignore=shutil.ignore_patterns("tokens", "sources"))  # chunks come back, streams do not
    stage = recipe.stage("stage1")
    seen = list(seen_by_step(recipe, whole, accepted(recipe, whole, FACTS), stage, 11))
    assert list(seen_by_step(recipe, restored, accepted(recipe, restored, FACTS), stage, 11)) == seen != []
    for document in {sight.document for sight in seen}:
        steps = list(steps_of_document(recipe, whole, accepted(recipe, whole, FACTS), document))
        assert list(steps_of_document(recipe, restored, accepted(recipe, restored, FACTS), document)) == steps != []
    with pytest.raises(ValueError, match="no document"):
        list(steps_of_document(recipe, restored, accepted(recipe, restored, FACTS), "0" * 24))
