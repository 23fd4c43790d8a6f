"""SIGKILL a sweep of evaluations, at random, and finish it: every obligation once. `kill_sweep.py --count 20`.

A run of 16 checkpoints of random weights, none of them scored. `k2 eval` verifies, exports and scores them in processes of its own, is
killed again and again after a random number of new receipts, and at last is let finish. Whatever had its receipt at a kill must have the
very same at the end, nothing owed may be missing, no process may be left, and a sweep over the finished run must change nothing.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

CHECKPOINTS = 16
TESTS = Path(__file__).parents[1]
PATIENCE_SECONDS = 280.0


@dataclass
class Tally:
    """What was found over all kills."""

    kills: int = 0
    redone: set[str] = field(default_factory=set)  # receipts that were there at a kill, and are not the same at the end
    owed: list[str] = field(default_factory=list)  # what has no receipt at the end
    obligations: int = 0  # receipts at the end
    left: list[str] = field(default_factory=list)  # unfinished folders and processes
    second_sweep_seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", type=int, default=1, help="evaluators side by side")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_sweep(Path(folder), asked.count, asked.seed, devices=asked.devices)
    print(
        f"{tally.kills} kills: {tally.obligations} obligations settled, {len(tally.redone)} redone, {len(tally.owed)} still owed, "
        f"{len(tally.left)} left over; a second sweep took {tally.second_sweep_seconds:.1f} s"
    )
    print(*sorted(tally.redone), *tally.owed, *tally.left, sep="\n")
    sys.exit(1 if tally.redone or tally.owed or tally.left else 0)


def kill_sweep(folder: Path, count: int, seed: int, checkpoints: int = CHECKPOINTS, devices: int = 1) -> Tally:
    """Lay a run, kill its sweep `count` times, finish it, and look."""
    random_ = random.Random(seed)
    root = lay_run(folder, checkpoints, devices)
    tally = Tally()
    seen: dict[str, bytes] = {}
    for _ in range(count):
        sweep_until_killed(root, len(seen) + random_.randint(1, 12))
        tally.kills += 1
        seen |= {name: content for name, content in receipts(root).items() if name not in seen}
        tally.redone |= changed(seen, receipts(root))
    for _ in range(2):
        begun = time.monotonic()
        subprocess.run(command(root), check=True, timeout=PATIENCE_SECONDS, stdout=subprocess.DEVNULL)
        tally.second_sweep_seconds = time.monotonic() - begun
        tally.redone |= changed(seen, receipts(root))
        seen = receipts(root)
    tally.owed = sorted(owed(root, checkpoints) - set(seen))
    tally.obligations = len(seen)
    tally.left = [str(path) for path in root.rglob(".tmp-*")] + processes_of(root)
    return tally


def changed(before: dict[str, bytes], now: dict[str, bytes]) -> set[str]:
    return {name for name, content in before.items() if now.get(name) != content}


def sweep_until_killed(root: Path, receipts_wanted: int) -> None:
    """Start the sweep and kill it, with all its processes' parents first, once so many receipts stand; or it has ended by itself."""
    process = subprocess.Popen(command(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and len(receipts(root)) < receipts_wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def command(root: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "eval", str(root), "--json"]


def receipts(root: Path) -> dict[str, bytes]:
    """Every receipt of what checkpoints are owed, by its path."""
    found = {}
    for kind in ("verified", "exports", "scores", "task_scores"):
        for folder, inside, files in os.walk(root / kind):  # unlike rglob it goes on where a folder is renamed meanwhile
            inside[:] = [name for name in inside if not name.startswith(".")]
            if "receipt.json" in files:
                path = Path(folder, "receipt.json")
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


def owed(root: Path, checkpoints: int) -> set[str]:
    from k2.eval.tasks import tasks_of

    names = [f"ckpt_{number:03d}" for number in range(1, checkpoints + 1)]
    tasks = [task.name for task in tasks_of("k2_tiny") if not task.executes_code]
    singles = {f"{kind}/{name}/receipt.json" for name in names for kind in ("verified", "exports", "scores")}
    return singles | {f"task_scores/{name}/k2_tiny/{task}/receipt.json" for name in names for task in tasks}


def processes_of(root: Path) -> list[str]:
    """What still runs for this run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(root) in words and str(os.getpid()) != path.parent.name:
            found.append(words)
    return found


def lay_run(folder: Path, checkpoints: int, devices: int = 1) -> Path:
    """A run whose only stage is trained: `checkpoints` of random weights, the suite made, nothing settled."""
    from k2.checkpoint.weights import write_weights_as_state
    from k2.data.build import build
    from k2.eval.suite import build_suites
    from k2.model.layers import build_plain, weights_of
    from k2.recipe.load import digest, load_recipe
    from k2.recipe.place import Place
    from k2.run.layout import RunLayout
    from k2.run.ledger import AttemptEnded, AttemptStarted, append_facts
    from k2.run.opening import create_or_open
    from k2.run.receipt import Receipt, now, seal_folder

    steps = 24  # of the mini recipe's stage 1, and its stage 2 has 4: cut into so many chunks, the corpus still suffices
    per_chunk = steps // (checkpoints - 1)
    recipe = load_recipe(str(TESTS / "mini.toml"), (f"stages.0.chunks={checkpoints - 1}", f"stages.0.steps_per_chunk={per_chunk}"))
    layout, place = (
        RunLayout(folder / "swept"),
        Place(data_dir=str(TESTS / "corpus"), evaluator_niceness=0, evaluator_devices=("cpu",) * devices),
    )
    create_or_open(layout, recipe, place)
    build(recipe, place, layout, lambda _: None)
    build_suites(recipe, place, layout)
    for attempt, stage in enumerate(recipe.stages, 1):
        append_facts(
            layout.ledger,
            AttemptStarted(attempt=attempt, stage=stage.name, checkpoint=None, first_step=1),
            AttemptEnded(attempt=attempt, outcome="completed", exit_code=0),
        )
    for number in range(1, checkpoints + 1):
        stage, name = recipe.stages[number == checkpoints], f"ckpt_{number:03d}"
        step = stage.steps if number == checkpoints else number * per_chunk
        weights = weights_of(build_plain(recipe.model, stage.rope_base, number), recipe.model)
        write_weights_as_state(layout.checkpoint(name), weights)
        facts = {"kind": "chunk", "stage": stage.name, "step": step, "tokens": number * 1000}
        seal_folder(layout.checkpoint(name), Receipt(kind="checkpoint", name=name, recipe=digest(recipe), made_at=now(), facts=facts))
    return layout.root


if __name__ == "__main__":
    main()
