"""Evaluation as deployments. `evaluate-new`, on a schedule, settles what the checkpoints of idle runs are owed; `evaluate` scores the
checkpoints and suites that somebody chose in the UI's form.

A run that is being driven settles its own; one that was stopped, or whose evaluation failed, is caught up here, and so is what was
published without scores, in a folder, a bucket or a Hub repository. One checkpoint's trouble holds up no other's scores, and what has
its receipt is not done again. Every device that a place names scores a checkpoint at a time.
"""

import os
from pathlib import Path

from prefect import flow, runtime
from pydantic import BaseModel, ConfigDict, Field

from flows.pretrain import persist, teller
from flows.published import Wanted, score_published
from flows.requests import RunName, layout_of
from flows.run import existing_run
from flows.sweeping import score_chosen, settle_scores
from k2.publish.target import parse_target
from k2.recipe.load import load_place
from k2.run.lease import RunHeld
from k2.run.opening import existing_runs


class EvaluateNewRequest(BaseModel):
    """Where to look for checkpoints that are not scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")
    targets: list[str] = Field(
        default=[], description="where published checkpoints lie: s3://bucket/prefix, hf://owner/name, file:///folder"
    )
    suites: list[str] = Field(default=[], description="of published checkpoints: k2_tiny, k2_21; empty: the suite of their recipe")
    place: str | None = Field(default=None, description="of published checkpoints: path of a .toml file that says where they are scored")


class EvaluateRequest(BaseModel):
    """Which checkpoints to score, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunName = "k2-tiny"
    published: str | None = Field(
        default=None, description="score what is published there, not a run: s3://bucket/prefix, hf://owner/name, file:///folder"
    )
    checkpoints: list[str] = Field(default=[], description="names such as ckpt_003; empty: every one that ends a chunk")
    suites: list[str] = Field(default=[], description="k2_tiny, k2_21; empty: what the run's recipe asks for and is not scored yet")
    place: str | None = Field(default=None, description="of published checkpoints: path of a .toml file that says where they are scored")
    runs_dir: str | None = Field(default=None, description="where runs lie; empty: the worker's own runs directory")


@flow(name="evaluate-new", persist_result=False)
def evaluate_new(request: EvaluateNewRequest = EvaluateNewRequest()) -> list[str]:
    """Score every checkpoint that is not scored yet.

    Args:
        request: where to look
    """
    say = teller()
    settled: list[str] = []
    failed: dict[str, str] = {}
    for layout in existing_runs(_runs_dir(request.runs_dir)):
        try:
            with existing_run(layout, say) as run:
                scored, troubled = settle_scores(run, (), persist)
        except RunHeld:
            say(f"{layout.name} is being driven; it settles its own checkpoints")
        except Exception as error:  # one run's trouble must not keep the others from their scores
            say(f"{layout.name}: {error}")
            failed[layout.name] = f"{error.__class__.__name__}: {error}"
        else:
            settled += [f"{layout.name}/{name}" for name in scored]
            failed |= {f"{layout.name}/{name}": why for name, why in troubled.items()}
    for target in request.targets:
        wanted = Wanted(parse_target(target), suites=tuple(request.suites))
        scored, troubled = _score_published(wanted, request.runs_dir, request.place)
        settled += scored
        failed |= troubled
    return _conclude(settled, failed)


def _what_is_evaluated() -> str:
    """What the flow run is called in the UI."""
    request = EvaluateRequest.model_validate(runtime.flow_run.parameters["request"])
    return f"evaluate {request.published or request.run}"


@flow(name="evaluate", flow_run_name=_what_is_evaluated, persist_result=False)
def evaluate(request: EvaluateRequest = EvaluateRequest()) -> list[str]:
    """Score the chosen checkpoints of a run.

    Args:
        request: which checkpoints, with which suites
    """
    chosen = tuple(request.checkpoints)
    if request.published is not None:
        wanted = Wanted(parse_target(request.published), chosen, tuple(request.suites))
        return _conclude(*_score_published(wanted, request.runs_dir, request.place))
    layout = layout_of(request.run, request.runs_dir)
    suites = tuple(request.suites)
    with existing_run(layout, teller()) as run:
        scored, failed = score_chosen(run, chosen, suites, persist) if suites else settle_scores(run, chosen, persist)
    return _conclude(scored, failed)


def _score_published(wanted: Wanted, runs_dir: str | None, place: str | None) -> tuple[list[str], dict[str, str]]:
    """Score what is unscored at a target; names with the target before them. A target that cannot be reached has failed."""
    there, say = load_place(place) if place else None, teller()
    try:
        _, scored, failed = score_published(wanted, _runs_dir(runs_dir), there, say, lambda _run: persist)
    except Exception as error:  # one target's trouble must not keep the others from their scores
        say(f"{wanted.target}: {error}")
        return [], {str(wanted.target): f"{error.__class__.__name__}: {error}"}
    return [f"{wanted.target}/{name}" for name in scored], {f"{wanted.target}/{name}": why for name, why in failed.items()}


def _runs_dir(given: str | None) -> Path:
    return Path(given or os.environ.get("K2_RUNS_DIR", "runs"))


def _conclude(scored: list[str], failed: dict[str, str]) -> list[str]:
    if failed:
        raise RuntimeError(f"scored {len(scored)} checkpoints, but not all: " + "; ".join(f"{name}: {why}" for name, why in failed.items()))
    return scored
