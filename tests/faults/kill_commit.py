"""SIGKILL the writers of checkpoints, at random and at every named point, and look what stands: `kill_commit.py --count 300`.

Two processes commit as two ranks do. After each kill every visible checkpoint must verify, the newest must hold exactly what its
step was, and the next attempt goes on from it. `--real N` kills the real trainer's ranks at the named points too, and resumes.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from commit_writer import numbers

from k2.checkpoint.select import verify
from k2.checkpoint.shard import KINDS
from k2.checkpoint.state import StateReader
from k2.run.durable import sweep
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout

POINTS = ("ckpt.begin", "ckpt.after_shard", "ckpt.before_manifest", "ckpt.before_rename", "ckpt.after_rename")
RANKS = 2
KILL_AFTER_SECONDS = (0.05, 0.6)  # from the first commit on


@dataclass
class Tally:
    """What was found over all kills."""

    kills: int = 0
    torn: list[str] = field(default_factory=list)  # visible, and not whole
    wrong: list[str] = field(default_factory=list)  # whole, and not what its step was
    lost: list[str] = field(default_factory=list)  # a checkpoint that stood before and does no more
    left: int = 0  # hidden folders swept
    committed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=0, metavar="N", help="kills of the real trainer, at the named points in turn")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_writers(Path(folder), asked.count, asked.seed)
        bad = kill_trainers(Path(folder), asked.real, asked.seed) if asked.real else []
    print(f"{tally.kills} kills: {tally.committed} checkpoints committed, {tally.left} unfinished folders swept, "
          f"{len(tally.torn)} torn, {len(tally.wrong)} wrong, {len(tally.lost)} lost")  # fmt: skip
    if asked.real:
        print(f"{asked.real} kills of real ranks: {len(bad)} bad")
    print(*tally.torn, *tally.wrong, *tally.lost, *bad, sep="\n")
    sys.exit(1 if tally.torn or tally.wrong or tally.lost or bad else 0)


def kill_writers(root: Path, count: int, seed: int) -> Tally:
    layout, chance, tally = RunLayout(root / "writers"), random.Random(seed), Tally()
    layout.checkpoints.mkdir(parents=True)
    before: list[str] = []
    for attempt in range(count):
        first = int(before[-1].removeprefix("ckpt_")) + 1 if before else 1
        fault = arm(attempt, first, chance)
        ranks = [start(layout.checkpoints, rank, attempt, first, fault) for rank in range(RANKS)]
        wait_and_kill(ranks, layout.checkpoints / f"ckpt_{first:06d}", fault, chance)
        tally.kills += 1
        before = look(layout, before, tally)
        for old in before[:-3]:  # the disk is not ours alone
            subprocess.run(["rm", "-r", str(layout.checkpoint(old))], check=True)
        before = before[-3:]
    return tally


def arm(attempt: int, first: int, chance: random.Random) -> list[dict[str, object]]:
    """Every second kill is at a named point, one after the other; the others at any time."""
    if attempt % 2:
        return []
    point = POINTS[attempt // 2 % len(POINTS)]
    alone = point not in ("ckpt.begin", "ckpt.after_shard")  # only rank 0 comes there
    return [{"at": point, "rank": 0 if alone else chance.randrange(RANKS), "step": first + chance.randrange(3), "do": "SIGKILL"}]


def start(root: Path, rank: int, attempt: int, first: int, fault: list[dict[str, object]]) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("commit_writer.py")
    environment = {**os.environ, "RANK": str(rank)} | ({"K2_FAULTS": json.dumps(fault)} if fault else {})
    return subprocess.Popen([sys.executable, str(script), str(root), str(rank), str(RANKS), str(attempt), str(first)], env=environment)


def wait_and_kill(ranks: list[subprocess.Popen[bytes]], first: Path, fault: list[dict[str, object]], chance: random.Random) -> None:
    """Until one has died at its point, or for a while after the first commit; then all die, as they do when one is gone."""
    deadline, until = time.monotonic() + 60, None
    while all(rank.poll() is None for rank in ranks) and time.monotonic() < (until or deadline):
        if until is None and not fault and first.exists():
            until = time.monotonic() + chance.uniform(*KILL_AFTER_SECONDS)
        time.sleep(0.002)
    for rank in ranks:
        rank.kill()
        rank.wait()


def look(layout: RunLayout, before: list[str], tally: Tally) -> list[str]:
    """Sweep as every driver does first, then hold every visible checkpoint against its step."""
    tally.left += len(sweep(layout.checkpoints))
    visible = sorted(path.name for path in layout.checkpoints.iterdir())
    tally.lost += sorted(set(before) - set(visible))
    for name in visible:
        tally.torn += [f"{name}: {line}" for line in verify(layout, name)]
    if visible:
        tally.wrong += wrong_numbers(layout.checkpoint(visible[-1]))
    tally.committed += len(set(visible) - set(before))
    return visible


def wrong_numbers(folder: Path) -> list[str]:
    step = int(folder.name.removeprefix("ckpt_"))
    with StateReader(folder) as state:
        good = state.updates == step and all(
            np.array_equal(state.whole(f"weight_{rank}", kind), numbers(step, rank, number))
            for rank in range(RANKS)
            for number, kind in enumerate(KINDS)
        )
    return [] if good else [f"{folder.name} does not hold the numbers of step {step}"]


def kill_trainers(root: Path, count: int, seed: int) -> list[str]:
    """The trainer of the tests' recipe on two ranks, one of them killed at a named point of a save; what is wrong afterwards."""
    sys.path.append(str(Path(__file__).parents[1] / "train"))
    from trainer_run import new_run

    bad: list[str] = []
    unbroken = new_run(root / "unbroken" / "mini")
    unbroken.train()
    chance = random.Random(seed)
    for number in range(count):
        run, point = new_run(root / f"real_{number}" / "mini"), POINTS[number % len(POINTS)]
        rank = chance.randrange(2) if point in ("ckpt.begin", "ckpt.after_shard") else 0
        os.environ["K2_FAULTS"] = json.dumps([{"at": point, "rank": rank, "step": chance.choice((8, 12, 16)), "do": "SIGKILL"}])
        started = run.start()
        started.wait()
        del os.environ["K2_FAULTS"]
        sweep(run.layout.checkpoints)
        bad += [f"{point}: {name} {wrong}" for name in run.checkpoints() if name != ".trash" for wrong in verify(run.layout, name)]
        assert started.process.returncode != 0, "the fault did not strike"
        assert held_checkpoints(run.recipe, run.layout)
        run.resume()
        bad += [] if run.lineage() == unbroken.lineage() else [f"{point}: the resumed run differs"]
    return bad


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
