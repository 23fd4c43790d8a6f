"""Evaluation as deployments: `evaluate-new`, on a schedule, settles what the checkpoints of idle runs are owed.

A run that is being driven settles its own; one that was stopped, or whose evaluation failed, is caught up here.
"""

import os
from pathlib import Path

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows import work
from flows.pretrain import perform, teller
from flows.run import Run, existing_run
from flows.verdicts import take_over
from k2.run.lease import RunHeld
from k2.run.opening import existing_runs
from k2.run.plan import Settle, owed_duties


class EvaluateNewRequest(BaseModel):
    """Where to look for checkpoints that are not scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")


@flow(name="evaluate-new", persist_result=False)
def evaluate_new(request: EvaluateNewRequest = EvaluateNewRequest()) -> list[str]:
    """Score every checkpoint that is not scored yet.

    Args:
        request: where to look
    """
    say = teller()
    settled: list[str] = []
    failed: list[str] = []
    for layout in existing_runs(Path(request.runs_dir or os.environ.get("K2_RUNS_DIR", "runs"))):
        try:
            with existing_run(layout, say) as run:
                settled += [f"{layout.name}/{name}" for name in settle_scores(run)]
        except RunHeld:
            say(f"{layout.name} is being driven; it settles its own checkpoints")
        except Exception as error:  # one run's trouble must not keep the others from their scores
            say(f"{layout.name}: {error}")
            failed.append(f"{layout.name}: {error.__class__.__name__}: {error}")
    if failed:
        raise RuntimeError(f"scored {len(settled)} checkpoints, but not all: " + "; ".join(failed))
    return settled


def settle_scores(run: Run) -> list[str]:
    """Verify, export and score what is unscored; the names of what was scored."""
    scored = []
    take_over(run)
    for owed in owed_duties(run.recipe, run.facts(), run.holdings()):
        if owed.duty in ("verified", "exported", "evaluated"):
            _settle(run, owed)
            scored += [owed.checkpoint] if owed.duty == "evaluated" else []
    return scored


def _settle(run: Run, owed: Settle) -> None:
    perform(f"{owed.duty} {owed.checkpoint}", lambda: work.settle(run, owed), retry_delays=work.DELAY_SECONDS)
