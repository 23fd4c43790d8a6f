"""How long `k2 data seen` takes on a run of K2's shape: 360 chunks, twelve subsets with K2's repeats, two rollbacks.

    python benchmarks/data_seen.py [--steps-per-chunk 20] [--context 64] [--document-tokens 700] [--keep DIR]

Fabricates the run (random tokens, real shards, streams, chunks and receipts, 1,020 rows a step), asks the command line for
steps and for documents in a process each, checks that the answers agree both ways, and prints seconds of the whole process:
the first asking (the run's files dropped from the page cache), the best of three that follow, and what that took of a core.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from k2.data.chunk import BuildChunk, build_chunk
from k2.data.encode import EncodedShard
from k2.data.mix import plan_mix
from k2.data.operations import Ahead, Asker
from k2.data.order import sequence_of
from k2.data.resolve import write_stream
from k2.data.shard import DOCUMENT, DOCUMENTS, ENDS, TOKENS, ShardFacts, sort_ids
from k2.data.stream import Stream
from k2.recipe.data import Subset
from k2.recipe.load import digest, load_recipe
from k2.recipe.schema import Recipe, Stage
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, append_facts, read_facts
from k2.run.opening import create_or_open
from k2.run.receipt import RECEIPT, Receipt, now, seal_folder, write_receipt
from k2.run.records import StepRecord

BATCH = 1020
UNIQUE_TOKENS = Path(__file__).parents[1] / "tests" / "data" / "k2_65b_tokens.toml"


def fabricate(root: Path, steps_per_chunk: int, context: int, document_tokens: int) -> tuple[Recipe, RunLayout]:
    """The run: its streams, chunks and receipts by the real code, its tokens random."""
    overrides = (("context", context), ("steps_per_chunk", steps_per_chunk), ("batch_samples", BATCH))
    recipe = load_recipe("k2_65b", tuple(f"stages.stage1.{name}={value}" for name, value in overrides))
    layout, stage = RunLayout(root), recipe.stage("stage1")
    create_or_open(layout, recipe, None)
    for folder in (layout.sources, layout.tokenizer):
        with durable_folder(folder) as made:
            seal_folder(made, Receipt(kind=folder.name, name=folder.name, recipe=digest(recipe), made_at=now()))
    unique = tomllib.loads(UNIQUE_TOKENS.read_text())["tokens"]
    scale = 1.001 * stage.tokens / 1.4153e12
    random = np.random.default_rng(1)
    digests = {
        subset.name: _stream(recipe, layout, subset, int(unique.get(subset.name, 0) * scale) + context, document_tokens, random)
        for subset in recipe.data.subsets
    }
    samples = {entry.subset: Stream(layout, entry.subset).num_tokens // context for entry in stage.mix}
    plan = plan_mix(stage, samples)
    built = [build_chunk(BuildChunk(root, recipe, stage, chunk, plan, digests)) for chunk in range(stage.chunks)]
    inputs = {chunk.name: chunk.digest for chunk in built}
    write_receipt(layout.all_chunks / RECEIPT, Receipt(kind="chunks", name="chunks", recipe=digest(recipe), made_at=now(), inputs=inputs))
    _train(layout, stage)
    return recipe, layout


def _stream(recipe: Recipe, layout: RunLayout, subset: Subset, tokens: int, document_tokens: int, random: np.random.Generator) -> str:
    """One subset: a shard of documents of random lengths, and the stream over it."""
    lengths = np.maximum(2, random.lognormal(np.log(document_tokens), 1.0, 2 + 2 * tokens // document_tokens).astype(np.int64))
    ends = np.cumsum(lengths)
    ends = ends[: int(np.searchsorted(ends, tokens)) + 1]
    with durable_folder(layout.shard(subset.name, 0)) as folder:
        random.integers(0, 32_000, int(ends[-1]), dtype=np.uint16).tofile(folder / TOKENS)
        np.save(folder / ENDS, ends)
        records = np.zeros(len(ends), DOCUMENT)
        words = np.frombuffer(b"".join(hashlib.sha256(f"{subset.name} {n}".encode()).digest()[:16] for n in range(len(ends))), "<u8")
        records["high"], records["low"] = words[::2], words[1::2] & 0xFFFFFFFF
        records["position"] = np.arange(len(ends))
        np.save(folder / DOCUMENTS, records)
        sort_ids(folder)
        facts = ShardFacts(len(ends), int(ends[-1]), 0, 0, {}, {})
        shard = seal_folder(folder, Receipt(kind="shard", name=f"{subset.name}/00000", recipe=digest(recipe), made_at=now()))
    return write_stream(recipe, layout, subset, [EncodedShard(subset.name, 0, shard.digest, facts)], None, None).digest


def _train(layout: RunLayout, stage: Stage) -> None:
    """Three attempts: the first two were given up from position 160 and 185 on, and their chunks deferred, as K2 did."""
    goes_on = {1: 1, 2: 160 * stage.steps_per_chunk + 1, 3: 185 * stage.steps_per_chunk + 1}
    reached = {1: 194 * stage.steps_per_chunk, 2: 193 * stage.steps_per_chunk, 3: stage.steps}
    for attempt, first in goes_on.items():
        position = (first - 1) // stage.steps_per_chunk
        if position:
            ahead = Ahead(stage, sequence_of(stage, read_facts(layout.ledger)), first)
            append_facts(layout.ledger, ahead.defer(position, Asker("policy", "spike")))
        append_facts(layout.ledger, AttemptStarted(attempt=attempt, stage=stage.name, checkpoint=None, first_step=first))
        path = layout.metrics(stage.name, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = range(first, reached[attempt] + 1)
        path.write_text("".join(StepRecord(attempt, stage.name, step, 3.0, 1.0, 1e-4, step, 1.0).line() for step in steps))


def ask(layout: RunLayout, *arguments: str) -> tuple[float, float, list[dict[str, object]]]:
    """One question, in a process of its own: its seconds by the clock and of the processor, and the answer."""
    began, used = time.perf_counter(), _processor_seconds()
    command = [sys.executable, "-m", "flows.cli", "data", "seen", str(layout.root), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, _processor_seconds() - used, [json.loads(line) for line in done.stdout.splitlines()]


def _processor_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-per-chunk", type=int, default=20)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--document-tokens", type=int, default=700)
    parser.add_argument("--keep", type=Path, help="a folder for the run, made when it is not there yet")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary) / "run"
        began = time.perf_counter()
        if not (root / "chunks" / RECEIPT).is_file():
            fabricate(root, arguments.steps_per_chunk, arguments.context, arguments.document_tokens)
        layout = RunLayout(root)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        rows = arguments.steps_per_chunk * BATCH
        print(f"fabricated in {time.perf_counter() - began:.0f} s: {size / 1e9:.2f} GB, 360 chunks of {rows:,} rows")
        _measure(layout, arguments.steps_per_chunk)


def _measure(layout: RunLayout, steps_per_chunk: int) -> None:
    """Ask for a step, for a document of it, for the longest document and for one that is read six times, cold and warm."""
    stage = ("--stage", "stage1", "--step", str(187 * steps_per_chunk + 1))
    os.sync()
    _, _, sights = ask(layout, *stage)
    longest = max(range(Stream(layout, "redpajama.book").num_documents), key=lambda n: _length(layout, "redpajama.book", n))
    questions = {
        "a step": stage,
        "a document of it": ("--document", str(sights[0]["document"])),
        "a document read six times": ("--document", Stream(layout, "redpajama.wikipedia").document(1000).id),
        "the longest book": ("--document", Stream(layout, "redpajama.book").document(longest).id),
        "a step that was given up": (*stage, "--attempt", "1"),
        "a document, until ckpt_200": ("--document", str(sights[0]["document"]), "--until", "ckpt_200"),
    }
    print(f"{'question':28} {'cold s':>7} {'warm s':>7} {'of a core':>10} {'answers':>8}")
    for name, arguments in questions.items():
        _drop_pages(layout)
        cold, _, found = ask(layout, *arguments)
        warm, used, _ = min((ask(layout, *arguments) for _ in range(3)), key=lambda answer: answer[:2])
        print(f"{name:28} {cold:7.2f} {warm:7.2f} {used:10.2f} {len(found):8,}")
    _, _, back = ask(layout, *questions["a document of it"])
    assert sights[0] in back, "a step and its document do not lead to each other"


def _length(layout: RunLayout, subset: str, number: int) -> int:
    document = Stream(layout, subset).document(number)
    return document.token_end - document.token_start


def _drop_pages(layout: RunLayout) -> None:
    """Tell the kernel to forget the run's files, which it may do once they are written."""
    for path in layout.root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    main()
