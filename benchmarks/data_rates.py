"""Rates of data preparation beside its peers, in one run on the machine at hand.

    python benchmarks/data_rates.py [--megabytes 100] [--workers 2] [--keep FOLDER] [--peers PYTHON]

Gathers real text from the Python installation, trains one tokenizer of 32,000 pieces on it, and prints three tables:
tokenization (ours, sentencepiece, Hugging Face's tokenizers; one thread, every id compared), the whole preparation
(`k2 data build` with index, mix and chunks; datatrove's pipeline; a Megatron-style loop; the same number of workers and the
same tokenizer), and reading rows (our loader, a plain memory map). The reliable column is tokens per CPU-second, of the
process and all its children, their start included. datatrove is installed into a virtual environment of its own
(`benchmarks/.venv-peers`), since its pins are not ours.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.rates.corpus import write_corpus
from k2.recipe.data import TrainedTokenizer
from k2.recipe.load import load_recipe
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt
from k2.tokenizer import MODEL_FILE, Tokenizer, train_tokenizer
from k2.tokenizer.form import plain_form, read_model

HERE = Path(__file__).parent
PEERS = ("datatrove[io]>=0.10,<0.11", "tokenizers>=0.22,<0.24", "orjson>=3.11,<4")
FILES = 4  # datatrove shares work out by files
CONTEXT, CHUNKS, BATCH = 2048, 8, 4
_BATCH = 256  # documents that are encoded at once
_EVERY = 4  # of these batches one is given to `tokenizers`, the slowest: its rate is known from that
RECIPE = """
name = "rates"
description = "Written by benchmarks/data_rates.py"
seed = 1
model = {{ layers = 2, hidden = 32, ffn = 88, heads = 4, vocab_rows = 32032 }}
tokenizer = {{ kind = "file", path = "tokenizer.model", pieces = 32000 }}
layout = {{ precision = "fp32" }}
energy = {{ devices = 1, device_kw = 0.03, pue = 1.1, tco2e_per_mwh = 0.385 }}
evaluation = {{ suite = "k2_tiny" }}
checkpoints = {{ rescue_every_steps = 4 }}
spikes = {{ persistence_steps = 4, margin_steps = 2, max_skip_steps = 8 }}
[data]
shard_bytes = {shard_bytes}
[[data.subsets]]
name = "text"
domain = "code"
source = {{ kind = "files", pattern = "part_*.jsonl" }}
[[stages]]
name = "stage1"
context = {context}
rope_base = 10_000.0
chunks = {chunks}
steps_per_chunk = {steps}
batch_samples = {batch}
micro_batch_samples = {batch}
schedule = {{ kind = "cosine", peak = 3e-3, final = 3e-4, warmup_steps = 1 }}
mix = [{{ subset = "text" }}]
"""


@dataclass(frozen=True)
class Cost:
    tokens: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.cpu_seconds


@dataclass
class Clock:
    """What passes between the two ends of a `with measured()`."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@contextmanager
def measured(who: int) -> Iterator[Clock]:
    """CPU and wall seconds of this process (RUSAGE_SELF) or of the children that ended meanwhile (RUSAGE_CHILDREN)."""
    clock, began, used = Clock(), time.monotonic(), resource.getrusage(who)
    yield clock
    now = resource.getrusage(who)
    clock.cpu_seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    clock.wall_seconds = time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    parser.add_argument("--peers", type=Path, help="the Python of an environment that has datatrove")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        same = run(folder, asked.megabytes, asked.workers, (asked.peers or install_peers()).absolute())
    return 0 if same else 1


def run(folder: Path, megabytes: int, workers: int, peers: Path) -> bool:
    """Everything, table by table; False when anybody's ids differ."""
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    text_bytes = write_corpus(corpus, megabytes, FILES)
    texts = [json.loads(line)["text"] for path in sorted(corpus.glob("*.jsonl")) for line in path.open("rb")]
    tokenizer = prepare_tokenizer(folder / "tokenizer", texts)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(f"{text_bytes / 1e6:.1f} MB of text in {len(texts)} documents of this Python installation; 32,000 pieces\n")
    same, num_tokens = compare_tokenization(tokenizer, texts)
    del texts
    same &= compare_preparation(folder, corpus, tokenizer, workers, peers, num_tokens)
    compare_reading(folder)
    return same


def processor() -> str:
    """The machine's processor by name, as Linux has it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def prepare_tokenizer(folder: Path, texts: list[str]) -> Tokenizer:
    if not (folder / MODEL_FILE).is_file():
        train_tokenizer(texts[::5], folder, TrainedTokenizer(pieces=32_000, train_bytes=20_000_000), "0" * 64)
    (folder / "plain.json").write_text(plain_form(read_model(folder / MODEL_FILE)).to_str(), "utf-8")
    return Tokenizer(folder)


def compare_tokenization(tokenizer: Tokenizer, texts: list[str]) -> tuple[bool, int]:
    """One thread each. The libraries are loaded before, their memories of words are empty."""
    import sentencepiece
    from tokenizers import Tokenizer as HuggingFace

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.model_file))
    fast = HuggingFace.from_file(str(tokenizer.model_file.parent / "plain.json"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer.encode_batch(["to open the encoder"])
    batches = [texts[first : first + _BATCH] for first in range(0, len(texts), _BATCH)]
    reference, sentencepiece_cost = encode_all(batches, lambda batch: pieces.encode(batch, num_threads=1))
    ours, our_cost = encode_all(batches, tokenizer.encode_batch)
    every = batches[::_EVERY]
    theirs, their_cost = encode_all(every, lambda batch: [e.ids for e in fast.encode_batch_fast(batch, add_special_tokens=False)])
    same = all(np.array_equal(one, other) for one, other in zip(reference, ours, strict=True))
    of_every = [one for first in range(0, len(texts), _BATCH * _EVERY) for one in reference[first : first + _BATCH]]
    same_there = all(np.array_equal(one, other) for one, other in zip(of_every, theirs, strict=True))
    table(
        "Tokenization, one thread",
        {"K2 Pipeline": our_cost, "sentencepiece": sentencepiece_cost, "tokenizers": their_cost},
        f"ids equal to sentencepiece's on every document: K2 Pipeline {same}, tokenizers {same_there} (on a quarter of them)",
    )
    return same, sentencepiece_cost.tokens


def encode_all(batches: list[list[str]], encode: Callable[[list[str]], Any]) -> tuple[list[Any], Cost]:
    ids: list[Any] = []
    with measured(resource.RUSAGE_SELF) as clock:
        for batch in batches:
            ids += [np.asarray(one, np.uint16) for one in encode(batch)]
    return ids, Cost(sum(map(len, ids)), clock.cpu_seconds, clock.wall_seconds)


def compare_preparation(folder: Path, corpus: Path, tokenizer: Tokenizer, workers: int, peers: Path, num_tokens: int) -> bool:
    """From `.jsonl` to what training reads, each as a command of its own."""
    model = str(tokenizer.model_file)
    files = [str(path) for path in sorted(corpus.glob("*.jsonl"))]
    (folder / "megatron").mkdir(exist_ok=True)
    datatrove = [str(peers), str(HERE / "rates" / "datatrove_pipeline.py"), str(tokenizer.model_file.parent / "plain.json"), str(workers)]
    datatrove += [str(folder / "datatrove"), str(corpus), str(FILES)]
    megatron = [sys.executable, str(HERE / "rates" / "megatron_style.py"), model, str(workers), str(folder / "megatron"), *files]
    costs = {"K2 Pipeline": build(folder, corpus, tokenizer, workers, num_tokens)}
    costs |= {"Megatron-style loop": peer(megatron), "datatrove": peer(datatrove)}
    counts = {name: cost.tokens for name, cost in costs.items()}
    same = np.array_equal(np.fromfile(folder / "megatron" / "text_document.bin", "<u2"), stream_of(folder))
    best = max(cost.rate for name, cost in costs.items() if name != "K2 Pipeline")
    table(
        f"Whole preparation, {workers} workers",
        costs,
        f"tokens, `</s>` included: {counts}; the stream of ids equals the Megatron-style loop's: {same}\n"
        f"K2 Pipeline is {costs['K2 Pipeline'].rate / best:.1f} times the better peer per CPU-second",
    )
    return same


def build(folder: Path, corpus: Path, tokenizer: Tokenizer, workers: int, num_tokens: int) -> Cost:
    """`k2 data build`, everything included: freezing, encoding, resolving, mixing, chunks, index, receipts, fsync."""
    samples = (num_tokens + sum(path.read_bytes().count(b"\n") for path in corpus.glob("*.jsonl"))) // CONTEXT
    size = sum(path.stat().st_size for path in corpus.glob("*.jsonl"))
    recipe, place = folder / "rates.toml", folder / "place.toml"
    settings = {
        "context": CONTEXT,
        "chunks": CHUNKS,
        "batch": BATCH,
        "steps": samples // (CHUNKS * BATCH),
        "shard_bytes": size // (4 * workers),
    }
    recipe.write_text(RECIPE.format(**settings), "utf-8")
    place.write_text(f'data_dir = "{corpus}"\nworkers = {workers}\n', "utf-8")
    (corpus / MODEL_FILE).write_bytes(tokenizer.model_file.read_bytes())
    command = [sys.executable, "-c", "from flows.cli import entry; entry()", "data", "build", str(recipe)]
    command += ["--out", str(folder / "built"), "--place", str(place)]
    with measured(resource.RUSAGE_CHILDREN) as clock:
        said_by(command)
    facts = read_receipt(RunLayout(folder / "built").stream("text")).facts
    return Cost(facts["tokens"], clock.cpu_seconds, clock.wall_seconds)


def peer(command: list[str]) -> Cost:
    with measured(resource.RUSAGE_CHILDREN) as clock:
        said = said_by(command)
    return Cost(json.loads(said.splitlines()[-1])["tokens"], clock.cpu_seconds, clock.wall_seconds)


def said_by(command: list[str]) -> str:
    """What the command printed. When it fails, its last words end the benchmark."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        sys.exit(f"{command[:3]} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def stream_of(folder: Path) -> Any:
    """Our tokens in the order of the documents: shard by shard."""
    shards = sorted(RunLayout(folder / "built").stream("text").parent.glob("shard_*/tokens.bin"))
    return np.concatenate([np.fromfile(path, "<u2") for path in shards])


def compare_reading(folder: Path) -> None:
    """Every row of the stage in one process, the files in the page cache: through the loader, and from a plain memory map."""
    from k2.data.chunk import map_rows
    from k2.data.loader import SampleReader

    layout = RunLayout(folder / "built")
    recipe = load_recipe(str(folder / "rates.toml"))
    stage = recipe.stages[0]
    reader = SampleReader(recipe, layout, stage, [])
    for chunk in range(stage.chunks):
        reader.step(chunk * stage.steps_per_chunk + 1)  # verified once, as in training
    with measured(resource.RUSAGE_SELF) as loaded:
        for step in range(1, stage.steps + 1):
            reader.step(step).astype(np.int64)
    with measured(resource.RUSAGE_SELF) as mapped:
        for chunk in range(stage.chunks):
            rows = map_rows(layout, stage, chunk)
            for first in range(0, len(rows), stage.batch_samples):
                np.array(rows[first : first + stage.batch_samples]).astype(np.int64)
    costs = {"K2 Pipeline's loader": loaded, "memory map": mapped}
    table(
        "Reading rows, one process",
        {name: Cost(stage.tokens, clock.cpu_seconds, clock.wall_seconds) for name, clock in costs.items()},
        f"batches of {stage.batch_samples} rows of {stage.context} tokens, widened to int64; files in the page cache",
    )


def table(title: str, costs: dict[str, Cost], note: str) -> None:
    first = next(iter(costs.values()))
    print(f"{title:<28}{'Mtok/CPU-s':>12}{'CPU-s':>9}{'wall-s':>9}{'ours is':>10}")
    for name, cost in costs.items():
        print(f"{name:<28}{cost.rate / 1e6:>12.2f}{cost.cpu_seconds:>9.2f}{cost.wall_seconds:>9.2f}{first.rate / cost.rate:>9.1f}x")
    print(f"{note}\n", flush=True)


def install_peers() -> Path:
    """The Python of `benchmarks/.venv-peers`, made when it is not there."""
    folder = HERE / ".venv-peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
        (folder / "ready").touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
