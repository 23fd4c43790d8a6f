"""What of the shards is the stream: against a plain loop over the texts, however they are cut into shards."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from k2.data.document import cut_to_bytes, document_id, is_held_out
from k2.data.encoding import encode_all
from k2.data.engine import PlainEngine
from k2.data.freeze import freeze, frozen
from k2.data.stream import Stream, find_documents, read_document
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt
from k2.tokenizer import Tokenizer


@dataclass(frozen=True)
class Resolved:
    stream: Stream
    facts: dict
    layout: RunLayout
    recipe: object
    place: Place
    shards: int


@pytest.fixture
def texts() -> list[str]:
    """Many texts, some of them several times, near and far apart."""
    random = Random(3)
    once = [f"Text {n}: " + "word " * random.randrange(1, 40) + "\nend\n" for n in range(60)]
    return [random.choice(once) for _ in range(200)]


@pytest.fixture
def resolve(mini, tmp_path, texts):
    """Resolves the texts as the subset prose, declared as asked."""

    def make(shard_bytes: int, **declared: object) -> Resolved:
        data_dir, layout = tmp_path / "data", RunLayout(tmp_path / f"run{shard_bytes}")
        data_dir.mkdir(exist_ok=True)
        (data_dir / "prose.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        prose, place = mini.recipe.data.subsets[0].model_copy(update=declared), Place(data_dir=str(data_dir))
        data = mini.recipe.data.model_copy(update={"shard_bytes": shard_bytes, "subsets": (prose,)})
        recipe = mini.recipe.model_copy(update={"data": data})
        freeze(recipe, place, layout, lambda _: None)
        shutil.copytree(mini.layout.tokenizer, layout.tokenizer)
        encode_all(recipe, layout, {"prose": frozen(place, layout, prose)}, PlainEngine(), lambda _: None)
        facts = read_receipt(layout.stream("prose")).facts
        return Resolved(Stream(layout, "prose"), facts, layout, recipe, place, len(list((layout.tokens / "prose").glob("shard_*"))))

    return make


def plain_loop(texts: list[str], share: float, max_bytes: int | None, drop: bool) -> list[str]:
    taken: list[str] = []
    left = max_bytes if max_bytes is not None else 1 << 60
    for text in texts:
        if is_held_out(document_id(text), share) or (drop and text in taken):
            continue
        taken.append(cut_to_bytes(text, left))
        left -= len(taken[-1].encode())
        if taken[-1] != text:
            break
    return [text for text in taken if text]


@pytest.mark.parametrize("shard_bytes", [1_500, 1 << 30])
@pytest.mark.parametrize(("max_bytes", "duplicates"), [(None, "keep"), (10**9, "drop"), (9_000, "keep"), (3_001, "drop"), (1, "keep")])
def test_the_stream_is_what_a_plain_loop_takes(resolve, texts, mini, shard_bytes, max_bytes, duplicates):
    made = resolve(shard_bytes, max_bytes=max_bytes, duplicates=duplicates)
    expected = plain_loop(texts, mini.recipe.data.held_out, max_bytes, duplicates == "drop")
    tokenizer = Tokenizer(mini.layout.tokenizer)
    ids = [[*tokenizer.encode(text), tokenizer.eos] for text in expected]
    documents = list(made.stream.documents())
    assert [d.id for d in documents] == [document_id(text) for text in expected]
    assert [d.token_end - d.token_start for d in documents] == [len(one) for one in ids]
    assert made.stream.read(0, made.stream.num_tokens).tolist() == [i for one in ids for i in one]
    assert (made.facts["documents"], made.facts["bytes"]) == (len(expected), sum(len(text.encode()) for text in expected))


def test_any_part_can_be_asked_for(resolve):
    stream = resolve(1_500, duplicates="drop").stream
    whole, documents = stream.read(0, stream.num_tokens), list(stream.documents())
    for n in range(50):
        begin, end = sorted(Random(n).sample(range(stream.num_tokens + 1), 2))
        assert stream.read(begin, end).tolist() == whole[begin:end].tolist()
        assert list(stream.documents(begin, end)) == [d for d in documents if d.token_start < end and d.token_end > begin]
    assert [stream.document(d.number) for d in documents] == documents
    with pytest.raises(ValueError, match="has no tokens"):
        stream.read(0, stream.num_tokens + 1)
    with pytest.raises(ValueError, match="has no document"):
        stream.document(stream.num_documents)


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_a_document_is_found_by_its_id_once_for_every_copy_that_is_trained_on(resolve, duplicates):
    made = resolve(1_500, duplicates=duplicates, max_bytes=12_000)
    numbers: dict[str, list[int]] = {}
    for document in made.stream.documents():
        numbers.setdefault(document.id, []).append(document.number)
    for document, expected in numbers.items():
        assert made.stream.find(document) == expected
        assert [number for subset, number in find_documents(made.recipe, made.layout, document) if subset == "prose"] == expected
    assert (max(map(len, numbers.values())) > 1) == (duplicates == "keep")
    assert made.stream.find(document_id("unknown")) == find_documents(made.recipe, made.layout, "no id") == []


def test_only_the_pieces_that_the_cap_needs_are_encoded(resolve, texts):
    assert resolve(1_500, max_bytes=2_000).shards < 5
    assert resolve(1_501).shards > 15


def test_a_text_is_read_again_from_its_place_and_a_changed_one_is_not_taken(resolve, texts):
    made = resolve(5_000, max_bytes=9_000)
    files = frozen(made.place, made.layout, made.recipe.data.subsets[0])
    documents = list(made.stream.documents())
    read = [read_document(files, "prose", document).text for document in documents]
    assert read == plain_loop(texts, made.recipe.data.held_out, 9_000, drop=False)
    with (Path(files.place.data_dir) / "prose.jsonl").open("r+b") as file:
        file.seek(documents[3].position + 20)
        file.write(b"?")
    with pytest.raises(ValueError, match=r"prose.jsonl holds another text at position"):
        read_document(files, "prose", documents[3])
