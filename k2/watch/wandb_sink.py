"""Step records to W&B, one W&B run an attempt, under K2's metric names (K2's Megatron: `lm loss`, `… vs samples`).

What enters is an attempt's file of records after the attempt has ended; what leaves is a W&B run in `wandb/`, offline by
default, to be sent with `wandb sync`. It happens in a process of its own: nothing of W&B's can harm the run.

A rollback is a fork. One W&B run for all attempts would not be truthful: W&B drops, without a word, whatever is logged at a
step lower than one before, and its rewind deletes what was abandoned. A branch in the metric's name would part every curve.
So each attempt is a run of its own, W&B's step is the trainer's, and `fork_from` records the attempt and the step that it
went on from: offline too, where `wandb sync` acts on it. The runs share a group, and the abandoned branch stays to be seen.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from k2.recipe.load import digest, load_recipe
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.durable import write_durably
from k2.run.goodput import goodput
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, Fact, read_facts
from k2.run.records import StepRecord, all_branches, read_records
from k2.run.secrets import without_secrets
from k2.watch.forks import fork_of, incidents_of

PROJECT = "k2-pipeline"
_LOG = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 300.0
_NAMES = {"lm loss": "loss", "learning-rate": "lr", "grad-norm": "grad_norm"}


def mirror_attempt(recipe: Recipe, place: Place, layout: RunLayout, facts: list[Fact], stage: str, attempt: int) -> bool:
    """Write the attempt's W&B run, whether it stands then. A failure is logged; training never depends on it.

    `facts` and `recipe` say that the attempt is one of the run; the process that writes reads them again.
    """
    known = any(isinstance(f, AttemptStarted) and (f.attempt, f.stage) == (attempt, stage) for f in facts)
    if place.wandb_mode == "disabled" or not known:
        return False
    count = sum(1 for _ in read_records(layout.metrics(recipe.stage(stage).name, attempt)))
    if count == 0 or _mirrored(layout, attempt) == count:
        return count > 0
    return _run_writer([str(layout.root), stage, str(attempt), place.wandb_mode], _environment(layout, place.wandb_mode))


def run_id(run: str, attempt: int) -> str:
    """The W&B id of an attempt."""
    return f"{run}-a{attempt}"


def metrics_of(recipe: Recipe, record: StepRecord) -> dict[str, float]:
    """One record under K2's names. `samples` counts planned samples over the stages, as Megatron's consumed samples do."""
    stage = recipe.stage(record.stage)
    before = sum(earlier.steps * earlier.batch_samples for earlier in recipe.stages_before(record.stage))
    row: dict[str, float] = {"step": record.step, "samples": before + record.step * stage.batch_samples, "tokens": record.tokens}
    for name, field in _NAMES.items():
        row[name] = row[f"{name} vs samples"] = getattr(record, field)
    return row | {"iteration-time": record.seconds, "batch-size": stage.batch_samples}


def main(arguments: list[str]) -> int:
    """`python -m k2.watch.wandb_sink ROOT STAGE ATTEMPT MODE`: write one attempt, in the environment that `mirror_attempt` sets."""
    import wandb

    root, stage, attempt, mode = arguments
    layout = RunLayout(Path(root))
    try:
        _write(layout, stage, int(attempt), "online" if mode == "online" else "offline")
    except (wandb.Error, OSError) as error:
        sys.stderr.write(f"{error.__class__.__name__}: {error}\n")
        return 1
    return 0


def _write(layout: RunLayout, stage: str, attempt: int, mode: Literal["offline", "online"]) -> None:
    import wandb

    recipe = load_recipe(str(layout.recipe))
    facts = read_facts(layout.ledger)
    started = next(f for f in facts if isinstance(f, AttemptStarted) and f.attempt == attempt)
    fork = fork_of(facts, started)
    records = list(read_records(layout.metrics(stage, attempt)))
    for torn in _folders(layout, attempt):
        shutil.rmtree(torn)
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_machine_info=True
    )
    with wandb.init(
        project=PROJECT,
        id=run_id(layout.name, attempt),
        name=f"{layout.name} {stage} attempt {attempt}",
        group=layout.name,
        dir=layout.wandb.parent,  # W&B makes its own folder `wandb` there
        mode=mode,
        config={"recipe": recipe.name, "recipe_digest": digest(recipe), "stage": stage, "attempt": attempt}
        | {"first_step": started.first_step, "checkpoint": started.checkpoint, "incidents": incidents_of(facts, attempt)},
        fork_from=None if fork is None else f"{run_id(layout.name, fork.parent)}?_step={fork.step}",
        settings=settings,
    ) as run:
        for name in _NAMES:
            run.define_metric(name, step_metric="step")
            run.define_metric(f"{name} vs samples", step_metric="samples")
        for record in records:
            run.log(metrics_of(recipe, record), step=record.step)
        shares = goodput(facts, recipe, all_branches(layout, facts, recipe))
        run.summary.update({f"goodput/{cause}": share for cause, share in shares.items()})
    write_durably(_mark(layout, attempt), json.dumps({"records": len(records)}).encode())


def _run_writer(arguments: list[str], environment: dict[str, str]) -> bool:
    command = [sys.executable, "-m", "k2.watch.wandb_sink", *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        _LOG.warning("W&B got nothing of attempt %s: %s", arguments[2], error)
        return False
    if done.returncode != 0:
        _LOG.warning("W&B got nothing of attempt %s: %s", arguments[2], "".join(done.stderr.splitlines()[-1:]) or f"exit {done.returncode}")
    return done.returncode == 0


def _environment(layout: RunLayout, mode: str) -> dict[str, str]:
    """Everything that W&B would put into the home folder goes into the run's. No secret is handed down but W&B's own key, online."""
    folders = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
    own = {name: str(layout.wandb / ".own" / name.removeprefix("WANDB_").lower()) for name in folders}
    key = {name: os.environ[name] for name in ("WANDB_API_KEY",) if mode == "online" and name in os.environ}
    return without_secrets(os.environ) | key | own | {"WANDB_MODE": mode, "WANDB_SILENT": "true", "WANDB_DIR": str(layout.wandb.parent)}


def _folders(layout: RunLayout, attempt: int) -> list[Path]:
    """What W&B wrote of the attempt offline, complete or not."""
    return list(layout.wandb.glob(f"offline-run-*-{run_id(layout.name, attempt)}"))


def _mark(layout: RunLayout, attempt: int) -> Path:
    return layout.wandb / f"{run_id(layout.name, attempt)}.json"


def _mirrored(layout: RunLayout, attempt: int) -> int:
    """How many records of the attempt W&B holds."""
    try:
        return int(json.loads(_mark(layout, attempt).read_bytes())["records"])
    except (OSError, ValueError, KeyError):
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
