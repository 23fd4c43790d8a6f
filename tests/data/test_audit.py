"""The audits count for themselves."""

import numpy as np
import pytest

from k2.data.audit import counted_mix, declared_mix, verify
from k2.data.chunk import chunk_receipt
from k2.data.stream import Stream
from k2.recipe.load import load_recipe
from k2.run.receipt import BrokenOutput, read_receipt, write_receipt


def test_the_counted_mix_is_what_lies_in_the_rows(mini):
    """Counted once more without the index: a row of a subset is a piece of its stream."""
    mix = counted_mix(mini.recipe, mini.layout)
    for stage, counted in zip(mini.recipe.stages, mix.stages, strict=True):
        rows = np.concatenate(
            [np.fromfile(mini.layout.chunk(stage.name, c), dtype="<u2").reshape(-1, stage.context) for c in range(stage.chunks)]
        )
        for subset in counted.subsets:
            stream = Stream(mini.layout, subset.name)
            whole = stream.num_tokens // stage.context * stage.context
            pieces = {bytes(piece) for piece in stream.read(0, whole).reshape(-1, stage.context)}
            assert subset.samples == sum(bytes(row) in pieces for row in rows)
            assert subset.tokens == subset.samples * stage.context
            assert subset.fraction == subset.samples / len(rows)


def test_the_counted_mix_agrees_with_the_receipt(mini):
    facts = read_receipt(mini.layout.all_chunks).facts["stages"]
    for stage in counted_mix(mini.recipe, mini.layout).stages:
        assert {s.name: s.model_dump(exclude={"name", "declared"}) for s in stage.subsets} == facts[stage.name]["subsets"]
        assert all(s.per_chunk_max - s.per_chunk_min <= 1 for s in stage.subsets)


def test_the_contract_names_the_fields(mini):
    shown = counted_mix(mini.recipe, mini.layout).model_dump()
    assert list(shown) == ["stages"]
    assert set(shown["stages"][0]) == {"name", "subsets", "basis"}
    assert set(shown["stages"][0]["subsets"][0]) == {
        "name",
        "repeat",
        "samples",
        "tokens",
        "fraction",
        "per_chunk_min",
        "per_chunk_max",
        "declared",
    }


def test_the_declared_mix_of_k2_has_its_published_shares():
    stage1 = declared_mix(load_recipe("k2_65b")).stages[0]
    shares = {s.name: s for s in stage1.subsets}
    assert shares["refinedweb"].fraction == 0.471  # K2 §1.1
    assert shares["redpajama.wikipedia"].repeat == 6.0
    assert shares["refinedweb"].samples == pytest.approx(0.471 * 360 * 1_919_640, abs=1)
    assert shares["refinedweb"].per_chunk_max - shares["refinedweb"].per_chunk_min <= 1


def test_a_mix_without_published_shares_declares_no_counts(mini):
    first = declared_mix(mini.recipe).stages[0].subsets[0]
    assert (first.name, first.repeat, first.samples, first.fraction) == ("prose", 1.0, None, None)


def test_all_is_well_when_nothing_was_touched(mini):
    verified = verify(mini.layout.root)
    assert verified.bad == ()
    on_disk = [p for p in mini.layout.root.rglob("*") if p.is_file() and not (p.name == "receipt.json" or (p.suffix == ".json"))]
    assert verified.files == len(on_disk)
    assert verified.bytes == sum(p.stat().st_size for p in on_disk)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("chunks/stage1/chunk_001.bin", "chunks/stage1/chunk_001.bin: "),
        ("chunks/stage2/chunk_000.index.npy", "chunks/stage2/chunk_000.index.npy: "),
        ("tokens/code/shard_00000/documents.npy", "tokens/code/shard_00000/documents.npy: "),
        ("tokens/law/stream/intervals.npy", "tokens/law/stream/intervals.npy: "),
        ("sources/law.files.jsonl", "sources/law.files.jsonl: "),
        ("held_out/documents.jsonl", "held_out/documents.jsonl: "),
        ("tokenizer/tokenizer.model", "tokenizer/tokenizer.model: "),
    ],
)
def test_every_changed_or_missing_file_is_named(own_copy, path, said):
    file = own_copy.layout.root / path
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert [line for line in verify(own_copy.layout.root).bad] == [said + "its content does not match the digest in its receipt"]
    file.unlink()
    assert verify(own_copy.layout.root).bad == (said + "is missing",)


def test_a_chunk_that_lost_its_receipt_is_named(own_copy):
    chunk_receipt(own_copy.layout, "stage1", 2).unlink()
    (bad,) = verify(own_copy.layout.root).bad
    assert bad.startswith("stage1/chunk_002: is not the chunk that")
    with pytest.raises(BrokenOutput, match="no receipt"):
        counted_mix(own_copy.recipe, own_copy.layout)


def test_a_shard_that_is_not_its_streams_is_named(own_copy):
    shard = own_copy.layout.shard("code", 0)
    receipt = read_receipt(shard)
    write_receipt(shard / "receipt.json", receipt.model_copy(update={"facts": {}}))
    (bad,) = verify(own_copy.layout.root).bad
    assert bad.startswith("code/00000: is not the shard that")


def test_a_torn_receipt_is_named(own_copy):
    path = own_copy.layout.tokenizer / "receipt.json"
    path.write_bytes(path.read_bytes()[:50])
    (bad,) = verify(own_copy.layout.root).bad
    assert "no readable receipt" in bad


def test_a_folder_without_receipts_verifies_nothing(tmp_path):
    assert "holds no receipt" in verify(tmp_path).bad[0]
