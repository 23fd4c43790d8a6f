"""What preparing data costs at growing sizes: time and CPU-seconds should grow with the text, memory should not.

    python benchmarks/data_scale.py [--megabytes 10 100 330] [--workers 2] [--engine pool]

The text is what this machine's Python installation holds (every .py, .md, .rst and .txt file), taken again with its lines
turned when it is not enough, as one `.jsonl` file. Tokenization, removal of duplicates, resolving, packing and chunks of
4 MB are measured; the tokenizer is trained before. Memory is the sum, over all processes, of what each had at its peak; a
worker's memory of words that it has met is bounded (`k2.tokenizer.fast`), and is not full after the smallest size.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k2.data.build import build
from k2.recipe.data import Data, FilesSource, FileTokenizer, Subset, TrainedTokenizer
from k2.recipe.load import load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import MixEntry, Recipe, Stage
from k2.run.layout import RunLayout
from k2.run.receipt import read_receipt
from k2.tokenizer import train_tokenizer

PIECES = 8_000
TRAIN_BYTES = 4_000_000
CONTEXT = 2_048
SAMPLES_PER_CHUNK = 1_024
SHARD_BYTES = 8_000_000
BYTES_PER_TOKEN = 4.5  # more than the tokenizer packs into one: a stage that is sure to be filled
SUFFIXES = {".py", ".md", ".rst", ".txt"}


@dataclass(frozen=True)
class Cost:
    """What one build took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    tokens: int


def texts() -> Iterator[str]:
    """The installation's texts, again and again; in each round a text begins with another of its lines."""
    folders = [Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib")]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    for turn in range(1_000):
        for path in files:
            lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
            yield "".join(lines[turn % max(len(lines), 1) :] + lines[: turn % max(len(lines), 1)])


def write_corpus(path: Path, size: int) -> None:
    """A `.jsonl` file of about `size` bytes."""
    with path.open("wb") as file:
        for text in texts():
            file.write(json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            if file.tell() >= size:
                return


def recipe_for(size: int) -> Recipe:
    """The recipe of a corpus of so many bytes: chunks of one size, as many as it fills."""
    tiny = load_recipe("k2_tiny")
    subset = Subset(name="text", domain="code", duplicates="drop", source=FilesSource(pattern="corpus.jsonl"))
    chunks = max(1, int(size / BYTES_PER_TOKEN / CONTEXT / SAMPLES_PER_CHUNK))
    stage = tiny.stages[0].model_copy(
        update={
            "context": CONTEXT,
            "chunks": chunks,
            "steps_per_chunk": SAMPLES_PER_CHUNK // 16,
            "batch_samples": 16,
            "mix": (MixEntry(subset="text"),),
        }
    )
    return tiny.model_copy(
        update={
            "data": Data(subsets=(subset,), shard_bytes=SHARD_BYTES),
            "stages": (Stage.model_validate(stage.model_dump()),),
            "tokenizer": FileTokenizer(path="tokenizer.model", pieces=PIECES),
        }
    )


def measure(root: Path, size: int, arguments: argparse.Namespace) -> Cost:
    """Build in a process of its own, watched."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    argv = [sys.executable, __file__, "--build", str(root), str(size), "--workers", str(arguments.workers), "--engine", arguments.engine]
    with subprocess.Popen(argv, start_new_session=True) as child:
        peaks: dict[int, int] = {}
        watcher = threading.Thread(target=watch, args=(child, peaks))
        watcher.start()
        failed = child.wait()
        watcher.join()
    if failed:
        raise SystemExit(f"the build of {size} bytes failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    tokens = read_receipt(RunLayout(root / f"run-{size}").stream("text")).facts["tokens"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, cpu, sum(peaks.values()), tokens)


def watch(child: subprocess.Popen[bytes], peaks: dict[int, int]) -> None:
    """Note the highest resident size of every process of the child's session."""
    while child.poll() is None:
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                pid = int(status.parent.name)
                if os.getsid(pid) == child.pid:
                    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                    peaks[pid] = max(peaks.get(pid, 0), int(fields.get("VmHWM", "0 kB").split()[0]) * 1024)
            except (OSError, ValueError):  # it has just ended
                continue
        time.sleep(0.05)


def build_here(root: Path, size: int, place: Place) -> None:
    build(recipe_for(size), place, RunLayout(root / f"run-{size}"), lambda _: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 330])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="pool")
    parser.add_argument("--build", nargs=2, metavar=("ROOT", "BYTES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        root, size = Path(arguments.build[0]), int(arguments.build[1])
        build_here(root, size, Place(data_dir=str(root), engine=arguments.engine, workers=arguments.workers))
        return
    with tempfile.TemporaryDirectory(prefix="k2-data-scale-") as folder:
        root = Path(folder)
        train_tokenizer(texts(), root / "trained", TrainedTokenizer(pieces=PIECES, train_bytes=TRAIN_BYTES), "0" * 64)
        (root / "trained" / "tokenizer.model").rename(root / "tokenizer.model")
        print(f"{'text':>9} {'tokens':>12} {'seconds':>8} {'CPU s':>8} {'tokens/s':>10} {'tokens/CPU s':>13} {'peak memory':>12}")
        for megabytes in arguments.megabytes:
            write_corpus(root / "corpus.jsonl", megabytes * 10**6)
            cost = measure(root, megabytes * 10**6, arguments)
            print(
                f"{megabytes:>6} MB {cost.tokens:>12,} {cost.seconds:>8.1f} {cost.cpu_seconds:>8.1f} {cost.tokens / cost.seconds:>10,.0f} "
                f"{cost.tokens / cost.cpu_seconds:>13,.0f} {cost.peak_bytes / 1e6:>9,.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
