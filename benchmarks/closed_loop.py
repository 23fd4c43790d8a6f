"""The loop closes: spikes provoked for real in miniature runs, healed without anyone, their cost counted.

For each seed one run that nothing disturbs, and one a kind of spike. A row says whether the run finished, whether nobody was
asked, how far its loss stands from the undisturbed run's over the last steps, and how many steps were trained in vain. The
limit for these is 2 checkpoint intervals and 250 steps an incident, the latter scaled as every window is.

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
from statistics import fmean

from k2.recipe.load import load_recipe
from k2.run.layout import RunLayout
from k2.run.ledger import IncidentDecided, IncidentOpened, ResumeRefused, read_facts
from k2.run.records import accepted_records, branches

TESTS = Path(__file__).resolve().parents[1] / "tests"
K2 = Path(sys.executable).parent / "k2"
STEPS, SPIKE, INTERVAL, PERSISTENCE = 240, 101, 10, 8
OVERRIDES = (
    f"stages.stage1.steps_per_chunk={STEPS // 3}",
    f"checkpoints.rescue_every_steps={INTERVAL}",
    f"spikes.persistence_steps={PERSISTENCE}",
    "spikes.margin_steps=4",
    "layout.pipeline=1",
    "evaluation.every=99",
    "publishing.every=99",
)
LAST_STEPS = 60  # over which the levels are compared
LEVEL_NATS = 0.1  # of a miniature whose single steps spread by 0.15: four standard errors of such a mean are 0.08


def kick(first_step: int, steps: int = 3) -> str:
    return f'kind = "learning_rate"\nfirst_step = {first_step}\nsteps = {steps}\nlearning_rate_factor = 300.0\n'


def fault(kind: str, first_step: int, steps: int) -> str:
    return f'kind = "{kind}"\nfirst_step = {first_step}\nsteps = {steps}\n'


KINDS: dict[str, tuple[str, ...]] = {
    "kick": (kick(SPIKE),),
    "poisoned": (fault("repeated_tokens", SPIKE, PERSISTENCE + 6),),
    "nan": (fault("nan_gradients", SPIKE, PERSISTENCE),),
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
    steps_in_vain: int
    limit_steps: int
    seconds: float

    @property
    def closed(self) -> bool:
        """Whether the loop closed: finished, nobody asked, back on the level, within the limit."""
        back = abs(self.level_difference_nats) <= LEVEL_NATS
        return self.finished and self.asked == 0 and back and self.steps_in_vain <= self.limit_steps

    def line(self) -> str:
        return (
            f"{self.seed:>4} {self.kind:9} {'closed' if self.closed else 'OPEN':7} {'yes' if self.finished else 'NO':9} {self.asked:>6} "
            f"{self.level_difference_nats:>+8.3f} {self.steps_in_vain:>6} of {self.limit_steps:<4} {self.seconds:>6.0f} s  "
            f"{', '.join(self.kinds) or 'no incident'}"
        )


HEAD = f"{'seed':>4} {'kind':9} {'loop':7} {'finished':9} {'asked':>6} {'nats':>8} {'in vain':>14} {'took':>7}  incidents"


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


def examine(seed: int, kind: str, ended: tuple[RunLayout, int, float], level: float) -> Row:
    """The run's row. `level` is the mean loss of the undisturbed run's last steps."""
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
    return Row(seed, kind, code == 0, asked, kinds, last_level(layout) - level, trained - counted, limit, seconds)


def last_level(layout: RunLayout) -> float:
    """The mean loss over the last steps of stage 1 that count."""
    facts = read_facts(layout.ledger)
    return fmean(record.loss for record in accepted_records(layout, facts, "stage1")[-LAST_STEPS:])


def close_loops(folder: Path, seed: int, kinds: Sequence[str]) -> list[Row]:
    """The seed's undisturbed run, then one of each kind."""
    reference, code, _ = run_one(folder, seed, "calm", ())
    if code != 0:
        raise RuntimeError(f"the undisturbed run of seed {seed} ended with {code}; see {folder / reference.name}.log")
    level, rows = last_level(reference), []
    for kind in kinds:
        rows.append(examine(seed, kind, run_one(folder, seed, kind, KINDS[kind]), level))
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
