"""One document walks through the house: from its file to its row, its step, its checkpoint, its score and its upload,
and back again by following receipts. The table "a document walks through" of the design, as a test.
"""

import json
from typing import Any

import numpy as np
import pytest
from machine import TESTS, Machine

from k2.data.document import document_id
from k2.recipe.load import digest, load_recipe
from k2.run.layout import checkpoint_name
from k2.run.receipt import Receipt, check_files, read_receipt
from k2.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

FIRST_PROSE = json.loads((TESTS / "corpus" / "prose.jsonl").read_text().splitlines()[0])["text"]


def lines(machine: Machine, *arguments: str) -> list[dict[str, Any]]:
    done = machine.k2(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_one_document_there_and_back(reference: Machine) -> None:
    layout = reference.layout("mini")
    recipe = load_recipe(str(layout.recipe))
    stage = recipe.stage("stage1")

    # 1-4: a line of a file is a document with an id; its text is token ids in one subset's stream
    document = document_id(FIRST_PROSE)
    tokenizer = Tokenizer(layout.tokenizer)
    ids = [*tokenizer.encode(FIRST_PROSE), tokenizer.eos]

    # 5, 8: it has a seat, and a step that trained on it; the bytes at that seat are its tokens
    sights = [s for s in lines(reference, "data", "seen", "mini", "--document", document) if s["stage"] == "stage1"]
    seen = sights[0]
    rows = np.fromfile(layout.chunk("stage1", seen["chunk"]), np.uint16).reshape(-1, stage.context)
    assert rows[seen["row"], seen["row_start"] : seen["row_end"]].tolist() == ids[seen["token_start"] : seen["token_end"]]
    back = lines(reference, "data", "seen", "mini", "--stage", "stage1", "--step", str(seen["step"]))
    assert seen in back
    assert sum(s["row_end"] - s["row_start"] for s in back) == stage.tokens_per_step

    # 9-11: the step has its record, and the checkpoint after its chunk has seen it
    assert ("stage1", seen["step"]) in reference.losses("mini")
    name = checkpoint_name(seen["position"] + 1)
    checkpoint = read_receipt(layout.checkpoint(name))
    assert checkpoint.facts["step"] == (seen["position"] + 1) * stage.steps_per_chunk >= seen["step"]

    # 12-14: exported, scored, published, shown
    assert {row["checkpoint"] for row in lines(reference, "eval", "mini")} >= {name}
    status = reference.status("mini")
    [held] = [c for c in status["checkpoints"] if c["name"] == name]  # type: ignore[attr-defined]
    assert held["obligations"] == dict.fromkeys(("verified", "exported", "evaluated", "published", "shown"), True)

    # and back, by receipts alone: upload -> score -> export -> checkpoint -> chunk -> stream -> shard, and the frozen list of files
    published = read_receipt(layout.published(name))
    scores, export = read_receipt(layout.scores(name)), read_receipt(layout.export(name))
    assert follows(published, "scores", scores)
    assert follows(scores, "export", export)
    assert follows(export, "checkpoint", checkpoint)
    chunks = read_receipt(layout.all_chunks)
    assert follows(checkpoint, "chunks", chunks)
    chunk = read_receipt(layout.chunks("stage1") / f"chunk_{seen['chunk']:03d}.json")
    assert follows(chunks, chunk.name, chunk)
    stream = read_receipt(layout.stream("prose"))
    assert follows(chunk, "prose", stream)
    shard = read_receipt(layout.shard("prose", 0))
    assert follows(stream, "prose/00000", shard)
    assert shard.facts["made_from"]["file"] == "prose.jsonl"
    sources = read_receipt(layout.sources)
    assert follows(stream, "sources", sources)
    assert check_files(layout.sources, sources) == []
    assert {r.recipe for r in (published, scores, export, checkpoint, chunks, chunk, stream, shard, sources)} == {digest(recipe)}

    # the upload is what the receipts say, byte for byte
    store = reference.root / "published" / "mini" / name
    assert check_files(store, read_receipt(store)) == []


def follows(later: Receipt, input_name: str, earlier: Receipt) -> bool:
    return later.inputs[input_name] == earlier.digest


def test_the_release_lists_every_checkpoint(reference: Machine) -> None:
    release = read_receipt(reference.layout("mini").release)
    assert release.kind == "release"
    index = json.loads((reference.layout("mini").release / "files" / "release.json").read_text())
    assert [c["name"] for c in index["checkpoints"]] == [checkpoint_name(k) for k in range(1, 5)]


def test_every_digest_of_the_run_agrees(reference: Machine) -> None:
    done = reference.k2("data", "verify", str(reference.layout("mini").root), "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["bad"] == []


def test_the_page_stands_alone(reference: Machine) -> None:
    done = reference.k2("report", "mini", "--json")
    page = reference.layout("mini").page
    assert json.loads(done.stdout)["page"] == str(page.relative_to(reference.root)) or json.loads(done.stdout)["page"] == str(page)
    assert "<script src" not in page.read_text()
