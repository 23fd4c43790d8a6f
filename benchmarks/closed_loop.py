"""The loop closes: spikes provoked for real in miniature runs, healed without anyone, their cost counted.

For each seed one run that nothing disturbs, and one a kind of spike. A row says whether the run finished, whether nobody was
asked, how far its loss stands above the undisturbed run's over the last steps, and how many steps were trained in vain. A level
is back where the detector would not call it raised (a run that skipped steps has trained less, and in a miniature that
shows). The limit for steps in vain is 2 checkpoint intervals and 250 steps an incident, the latter scaled as every window is.

    python benchmarks/closed_loop.py --seeds 20 --jobs 2          all kinds, about an hour
    python benchmarks/closed_loop.py --seed 7 --kinds nan         one run and its reference
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from k2.recipe.load import load_recipe
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentDecided, IncidentOpened, ResumeRefused, read_facts
from k2.run.records import accepted_records, branches

TESTS = Path(__file__).resolve().parents[1] / "tests"
K2 = Path(sys.executable).parent / "k2"
STEPS, SPIKE, INTERVAL, PERSISTENCE = 360, 121, 10, 8
OVERRIDES = (
    f"stages.stage1.steps_per_chunk={STEPS // 3}",
    f"checkpoints.rescue_every_steps={INTERVAL}",
    f"spikes.persistence_steps={PERSISTENCE}",
    "spikes.margin_steps=4",
    f"spikes.max_skip_steps={400 * PERSISTENCE // 100}",
    "layout.pipeline=1",
    "evaluation.every=99",
    "publishing.every=99",
)
LAST_STEPS = 60  # over which the levels are compared
LEVEL_DEVIATIONS, LEVEL_NATS = 1.5, 0.05  # as the detector says that a level is up: by so many deviations, and nats


def kick(first_step: int, steps: int = 3) -> str:
    return f'kind = "learning_rate"\nfirst_step = {first_step}\nsteps = {steps}\nlearning_rate_factor = 300.0\n'


def fault(kind: str, first_step: int, steps: int) -> str:
    return f'kind = "{kind}"\nfirst_step = {first_step}\nsteps = {steps}\n'


KINDS: dict[str, tuple[str, ...]] = {
    "kick": (kick(SPIKE),),
    "poisoned": (fault("repeated_tokens", SPIKE, PERSISTENCE),),
    "outlasts": (fault("repeated_tokens", SPIKE, 3 * PERSISTENCE),),  # poison that goes on behind the steps that the first rollback skips
    "nan": (fault("nan_gradients", SPIKE, 3),),
    "two": (kick(SPIKE), kick(SPIKE + 60)),
    "returns": (kick(SPIKE), kick(SPIKE + 14)),  # again behind the steps that the first rollback skips
    "resume": (kick(SPIKE), fault("zeroed_optimizer", SPIKE - 10, 1)),  # the attempt that goes on after the kick is broken
}


@dataclass(frozen=True)
class Row:
    """What became of one run."""

    seed: int
    kind: str
    finished: bool
    asked: int
    kinds: tuple[str, ...]
    level_difference_nats: float
    level_limit_nats: float
    steps_in_vain: int
    limit_steps: int
    seconds: float

    @property
    def closed(self) -> bool:
        """Whether the loop closed: finished, nobody asked, back on the level, within the limit."""
        back = self.level_difference_nats <= self.level_limit_nats
        return self.finished and self.asked == 0 and back and self.steps_in_vain <= self.limit_steps

    def line(self) -> str:
        loop, finished = "closed" if self.closed else "OPEN", "yes" if self.finished else "NO"
        level = f"{self.level_difference_nats:>+7.3f} of {self.level_limit_nats:<5.2f}"
        cost = f"{self.steps_in_vain:>6} of {self.limit_steps:<4} {self.seconds:>6.0f} s"
        return (
            f"{self.seed:>4} {self.kind:9} {loop:7} {finished:9} {self.asked:>6} {level} {cost}  {', '.join(self.kinds) or 'no incident'}"
        )


HEAD = f"{'seed':>4} {'kind':9} {'loop':7} {'finished':9} {'asked':>6} {'nats above':>16} {'in vain':>14} {'took':>7}  incidents"


def run_one(folder: Path, seed: int, kind: str, faults: Sequence[str]) -> tuple[RunLayout, int, float]:
    """One run to its end: its directory, exit code and seconds."""
    recipe = folder / f"{kind}-{seed}.toml"
    recipe.write_text(one_stage_recipe() + "".join(f'\n[[faults]]\nstage = "stage1"\n{one}' for one in faults), "utf-8")
    place = folder / "place.toml"
    place.write_text(f'data_dir = "{TESTS / "corpus"}"\nwandb_mode = "disabled"\n', "utf-8")
    layout = RunLayout(folder / "runs" / f"{kind}-{seed}")
    settings = [part for override in (*OVERRIDES, f"seed={seed}") for part in ("--set", override)]
    command = [str(K2), "run", str(recipe), "--run", layout.name, "--place", str(place), *settings]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = clean | {"K2_RUNS_DIR": str(layout.root.parent), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (folder / f"{layout.name}.log").write_text(done.stderr, "utf-8")
    return layout, done.returncode, time.monotonic() - began


def one_stage_recipe() -> str:
    """The tests' recipe without its second stage, which would only take time."""
    text = (TESTS / "mini.toml").read_text("utf-8")
    start = text.index('[[stages]]\nname = "stage2"')
    return text[:start] + text[text.index("[layout]") :]


def examine(seed: int, kind: str, ended: tuple[RunLayout, int, float], calm: Sequence[float]) -> Row:
    """The run's row. `calm` are the losses of the undisturbed run's last steps."""
    layout, code, seconds = ended
    facts = read_facts(layout.ledger)
    opened = [fact for fact in facts if isinstance(fact, IncidentOpened)]
    decided = [fact for fact in facts if isinstance(fact, IncidentDecided)]
    trained = sum(len(records) for records in branches(layout, facts, "stage1").values())
    counted = len(accepted_records(layout, facts, "stage1"))
    refused = [fact for fact in facts if isinstance(fact, ResumeRefused)]
    limit = (len(opened) + len(refused)) * (2 * INTERVAL + 250 * PERSISTENCE // 100)
    asked = len(opened) - len(decided) + sum(fact.who != "policy" for fact in decided)
    kinds = (*(fact.kind for fact in opened), *("bad resume" for _ in refused))
    above, band = fmean(last_losses(layout)) - fmean(calm), max(LEVEL_NATS, LEVEL_DEVIATIONS * stdev(calm))
    return Row(seed, kind, code == 0, asked, kinds, above, band, trained - counted, limit, seconds)


def last_losses(layout: RunLayout) -> list[float]:
    """The losses of the last steps of stage 1 that count."""
    facts = read_facts(layout.ledger)
    return [record.loss for record in accepted_records(layout, facts, "stage1")[-LAST_STEPS:]]


def close_loops(folder: Path, seed: int, kinds: Sequence[str]) -> list[Row]:
    """The seed's undisturbed run, then one of each kind."""
    reference, code, _ = run_one(folder, seed, "calm", ())
    if code != 0:
        raise RuntimeError(f"the undisturbed run of seed {seed} ended with {code}; see {folder / reference.name}.log")
    calm, rows = last_losses(reference), []
    for kind in kinds:
        rows.append(examine(seed, kind, run_one(folder, seed, kind, KINDS[kind]), calm))
        print(rows[-1].line(), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--folder", type=Path, help="where to run and leave everything (default: a temporary folder)")
    parser.add_argument("--rows", type=Path, help="append the rows to this file, a JSON object a line")
    given = parser.parse_args()
    load_recipe(str(TESTS / "mini.toml"), OVERRIDES)
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="k2-closed-loop-") as temporary, ThreadPoolExecutor(given.jobs) as pool:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        seeds = range(given.seed, given.seed + given.seeds)
        rows = [row for found in pool.map(lambda seed: close_loops(folder, seed, given.kinds), seeds) for row in found]
    if given.rows:
        with given.rows.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(vars(row) | {"closed": row.closed}) + "\n" for row in rows)
    closed = sum(row.closed for row in rows)
    print(f"{closed} of {len(rows)} loops closed, without anyone")
    return 0 if closed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
