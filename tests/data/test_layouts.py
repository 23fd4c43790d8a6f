"""Chunks in other layouts, read back by readers that share no code with ours, and taken in again."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from k2.data.audit import counted_mix, verify
from k2.data.document import DataError
from k2.data.export import Export, export_chunks
from k2.data.import_chunks import Import, import_chunks
from k2.data.loader import SampleReader
from k2.data.seen import accepted, seen_by_step, steps_of_document
from k2.data.stream import Stream
from k2.recipe.data import FileTokenizer
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted
from k2.run.receipt import check_files, read_receipt
from k2.run.records import StepRecord
from k2.tokenizer import Tokenizer

SCHEMA = ["token_ids", "source", "subset_name", "src_filename", "line_idx_in_src", "tgt_mask"]  # K2 §1.3


def export(prepared, out, form):
    job = Export(prepared.recipe, prepared.place, prepared.layout, form, out)
    return [r for stage in prepared.recipe.stages for r in export_chunks(job, stage, list(range(stage.chunks)), lambda _: None)]


def raw_rows(layout, stage, chunk):
    return np.fromfile(layout.chunk(stage.name, chunk), "<u2").reshape(-1, stage.context)


def read_megatron(path):
    """The sequences and documents of an indexed file, from its published layout alone, byte by byte with `struct`."""
    index, tokens = path.with_suffix(".idx").read_bytes(), path.read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    assert (version, code) == (1, 8)  # uint16
    place = 9 + 8 + 1 + 8 + 8
    lengths = struct.unpack_from(f"<{sequences}i", index, place)
    begins = struct.unpack_from(f"<{sequences}q", index, place + 4 * sequences)
    firsts = struct.unpack_from(f"<{documents}q", index, place + 12 * sequences)
    assert len(index) == place + 12 * sequences + 8 * documents
    found = [list(struct.unpack_from(f"<{length}H", tokens, begin)) for length, begin in zip(lengths, begins, strict=True)]
    return found, list(firsts)


@pytest.fixture(scope="module")
def jsonl(mini, tmp_path_factory):
    out = tmp_path_factory.mktemp("jsonl")
    export(mini, out, "jsonl")
    return out


def test_the_published_schema_is_read_back_row_by_row(mini, jsonl):
    for stage in mini.recipe.stages:
        for chunk in range(stage.chunks):
            rows = [json.loads(line) for line in (jsonl / stage.name / f"chunk_{chunk:03d}.jsonl").open()]
            assert [row["token_ids"] for row in rows] == raw_rows(mini.layout, stage, chunk).tolist()
            assert all(list(row) == SCHEMA for row in rows)
            assert all(row["tgt_mask"] == [1] * stage.context for row in rows)
            counts = read_receipt(jsonl / stage.name / f"chunk_{chunk:03d}.json").facts["subsets"]
            names = [row["subset_name"] for row in rows]
            assert {name: names.count(name) for name in counts} == counts


def test_a_published_row_leads_to_its_first_document(mini, jsonl):
    """The file and the place in it are where the row's first token came from."""
    corpus = {path.name: path.read_bytes() for path in Path(mini.place.data_dir).glob("*.jsonl")}
    rows = [json.loads(line) for line in (jsonl / "stage1" / "chunk_000.jsonl").open()]
    tokenizer = Tokenizer(mini.layout.tokenizer)
    checked = 0
    for row in rows:
        text = json.loads(corpus[row["src_filename"]][row["line_idx_in_src"] :].split(b"\n")[0])["text"]
        ids = [*tokenizer.encode(text), tokenizer.eos]
        if row["subset_name"] == "prose" and tokenizer.eos not in row["token_ids"]:
            assert str(row["token_ids"])[1:-1] in str(ids)
            checked += 1
    assert checked > 3


def test_megatrons_format_is_read_back_from_its_published_layout(mini, tmp_path):
    receipts = export(mini, tmp_path, "megatron")
    assert len(receipts) == 4
    for stage in mini.recipe.stages:
        for chunk in range(stage.chunks):
            sequences, documents = read_megatron(tmp_path / stage.name / f"chunk_{chunk:03d}.bin")
            assert sequences == raw_rows(mini.layout, stage, chunk).tolist()
            assert documents == list(range(stage.samples_per_chunk + 1))
    assert verify(tmp_path).bad == ()


def test_an_export_goes_on_where_it_was_killed_and_refuses_another_folder(mini, tmp_path):
    export(mini, tmp_path, "jsonl")
    kept, lost = tmp_path / "stage1" / "chunk_000.jsonl", tmp_path / "stage1" / "chunk_001.json"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    lost.with_suffix(".jsonl").write_text("half")
    export(mini, tmp_path, "jsonl")
    assert kept.stat().st_mtime_ns == before
    assert check_files(lost.parent, read_receipt(lost)) == []
    with pytest.raises(DataError, match="is of another export"):
        export(mini, tmp_path, "megatron")


def imported(mini, source, root, form="jsonl", subset=None, **changes):
    """The recipe of the mini run with the tokenizer that it trained, and the folder that was imported for it."""
    changes = {"tokenizer": FileTokenizer(path="tokenizer.model", pieces=mini.recipe.tokenizer.pieces), **changes}
    recipe = mini.recipe.model_copy(update=changes)
    place = Place(data_dir=str(mini.layout.tokenizer))
    job = Import(recipe, place, RunLayout(root), source, form, subset, mini.layout.held_out)
    receipt = import_chunks(job, lambda _: None)
    return job, receipt


@pytest.fixture(scope="module")
def taken(mini, jsonl, tmp_path_factory):
    return imported(mini, jsonl, tmp_path_factory.mktemp("imported") / "run")


def test_what_was_published_is_imported_and_passes_the_loaders_checks(mini, taken):
    job, receipt = taken
    for stage in mini.recipe.stages:
        ours, theirs = SampleReader(mini.recipe, mini.layout, stage, []), SampleReader(job.recipe, job.layout, stage, [])
        assert all(np.array_equal(ours.step(step), theirs.step(step)) for step in range(1, stage.steps + 1))
    assert verify(job.layout.root).bad == ()
    assert receipt.facts["imported"] == "jsonl"
    assert receipt.facts["held_out"] == len(mini.layout.held_out.read_bytes().splitlines())
    assert counted_mix(job.recipe, job.layout) == counted_mix(mini.recipe, mini.layout)


def test_an_imported_row_leads_to_its_steps_and_back(taken):
    job, _ = taken
    stage = job.recipe.stages[0]
    facts = [AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)]
    path = job.layout.metrics("stage1", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(StepRecord(1, "stage1", step, 3.0, 1.0, 1e-3, step, 0.1).line() for step in range(1, 25)))
    lineages = accepted(job.recipe, job.layout, facts)
    sights = [s for step in range(1, 25) for s in seen_by_step(job.recipe, job.layout, lineages, stage, step)]
    assert len(sights) == stage.chunks * stage.samples_per_chunk
    back = [s for d in {s.document for s in sights} for s in steps_of_document(job.recipe, job.layout, lineages, d)]
    assert set(back) == set(sights)


def test_an_imported_chunk_is_exported_as_it_came(mini, taken, jsonl, tmp_path):
    job, _ = taken
    list(export_chunks(Export(job.recipe, job.place, job.layout, "jsonl", tmp_path), job.recipe.stages[0], [0, 1, 2], lambda _: None))
    for chunk in range(3):
        name = f"stage1/chunk_{chunk:03d}.jsonl"
        assert (tmp_path / name).read_bytes() == (jsonl / name).read_bytes()


def test_megatrons_rows_are_imported_under_the_subset_that_is_named(mini, tmp_path):
    export(mini, tmp_path / "out", "megatron")
    job, receipt = imported(mini, tmp_path / "out", tmp_path / "run", "megatron", "code")
    for stage in mini.recipe.stages:
        assert np.array_equal(raw_rows(job.layout, stage, 0), raw_rows(mini.layout, stage, 0))
    assert receipt.facts["stages"]["stage1"]["subsets"]["code"]["fraction"] == 1.0
    document = Stream(job.layout, "code").document(40)
    assert document.position == 8  # the ninth sequence of chunk_001.bin


def test_megatrons_documents_of_any_length_are_packed(mini, tmp_path):
    """Three documents of int32 ids, as other preparations leave them: packed one after the other, the rest left out."""
    stage = mini.recipe.stages[1].model_copy(update={"name": "stage1", "mix": mini.recipe.stages[0].mix})
    lengths = [700, 100, stage.samples_per_chunk * stage.context - 700 - 100 + 9]
    ids = np.arange(sum(lengths), dtype="<i4") % 448
    ids.tofile(tmp_path / "chunk_0.bin")
    begins = np.cumsum([0, *lengths[:-1]]) * 4
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, 3, 4)
    body = np.array(lengths, "<i4").tobytes() + begins.astype("<i8").tobytes() + np.arange(4, dtype="<i8").tobytes()
    (tmp_path / "chunk_0.idx").write_bytes(header + body)
    job, _ = imported(mini, tmp_path, tmp_path / "run", "megatron", "prose", stages=(stage,))
    assert np.array_equal(raw_rows(job.layout, stage, 0).ravel(), ids[: stage.samples_per_chunk * stage.context])
    assert [Stream(job.layout, "prose").document(n).position for n in (0, 5, 6)] == [0, 0, 1]


def test_a_killed_import_goes_on_and_gives_the_same_bytes(mini, jsonl, taken, tmp_path):
    whole, _ = taken
    seen = []

    def stop_after_two(line):
        seen.append(line)
        if len(seen) == 2:
            raise KeyboardInterrupt

    job = Import(whole.recipe, whole.place, RunLayout(tmp_path / "run"), jsonl, "jsonl", None, whole.held_out)
    with pytest.raises(KeyboardInterrupt):
        import_chunks(job, stop_after_two)
    (job.layout.chunks("stage1") / "chunk_001.json").unlink()  # killed between the shards and the receipt
    receipt = import_chunks(job, lambda _: None)
    assert receipt.digest == read_receipt(whole.layout.all_chunks).digest
    for subset in ("prose", "code", "law"):
        assert read_receipt(job.layout.stream(subset)).digest == read_receipt(whole.layout.stream(subset)).digest


def changed(jsonl, tmp_path, change):
    """The export with the first row of a chunk changed."""
    target = tmp_path / "changed" / "stage1"
    target.mkdir(parents=True)
    first, *rest = (jsonl / "stage1" / "chunk_000.jsonl").read_text().splitlines()
    (target / "chunk_0.jsonl").write_text("\n".join([change(json.loads(first)), *rest]) + "\n")
    return target.parent


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: "{", "chunk_0.jsonl, line 1 is no row of K2's schema"),
        (
            lambda row: json.dumps({**row, "token_ids": [5] * 31, "tgt_mask": [1] * 31}),
            "line 1 has 31 ids, the recipe's stage wants rows of 32",
        ),
        (lambda row: json.dumps({**row, "token_ids": [447] * 31 + [448]}), r"holds the token id 448, but model\.vocab_rows = 448"),
        (lambda row: json.dumps({**row, "token_ids": [70000] * 32}), "token_ids must be a list of numbers from 0 to 65535"),
        (lambda row: json.dumps({**row, "tgt_mask": [0] + [1] * 31}), "tgt_mask leaves tokens out"),
        (lambda row: json.dumps({**row, "subset_name": "c4"}), "has rows of 'c4', which stages.stage1.mix does not name: code, law, prose"),
        (lambda row: "", "has 31 rows, but stages.stage1 needs 32 a chunk"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(mini, jsonl, tmp_path, change, said):
    with pytest.raises(DataError, match=said):
        imported(mini, changed(jsonl, tmp_path, change), tmp_path / "run")
    assert not (tmp_path / "run" / "chunks" / "receipt.json").exists()


def test_published_names_of_parts_belong_to_their_subset(mini, jsonl, tmp_path):
    """K2 §1.1 publishes `starcoder.python` and the like; the recipe names them `starcoder`."""
    source = changed(jsonl, tmp_path, lambda row: json.dumps({**row, "subset_name": "code.python.spm1.0"}))
    for chunk in (1, 2):
        (source / "stage1" / f"chunk_{chunk}.jsonl").write_bytes((jsonl / "stage1" / f"chunk_{chunk:03d}.jsonl").read_bytes())
    _, receipt = imported(mini, source, tmp_path / "run", stages=mini.recipe.stages[:1])
    assert receipt.facts["stages"]["stage1"]["samples"] == 96


def test_a_torn_index_is_refused(mini, tmp_path):
    export(mini, tmp_path / "out", "megatron")
    index = tmp_path / "out" / "stage1" / "chunk_000.idx"
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(DataError, match="is no index of Megatron's"):
        imported(mini, tmp_path / "out", tmp_path / "run", "megatron", "code")
    with pytest.raises(DataError, match="name it with --subset"):
        imported(mini, tmp_path / "out", tmp_path / "run2", "megatron")


def test_a_trained_tokenizer_cannot_be_had_from_rows(mini, jsonl, tmp_path):
    with pytest.raises(DataError, match='set kind = "file"'):
        imported(mini, jsonl, tmp_path / "run", tokenizer=mini.recipe.tokenizer)
