"""The scores of a run as rows, read from the receipts: what `k2 eval --json`, the page and the model card show. Torch-free."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, receipts_in


class Score(BaseModel):
    """One metric of one task. `higher_is_better` belongs to it: for bits per byte it is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    shots: Annotated[int, Field(ge=0)]
    metric: str
    value: float
    stderr: float | None = Field(description="standard error of the mean, where the metric is one")
    samples: Annotated[int, Field(ge=1)]
    higher_is_better: bool
    harness: str = Field(default="", description="name and version of the evaluation library: its task definitions are part of a score")
    data: str = Field(default="", description="digest that names the data asked")


class ScoreRow(Score):
    """A score with what it belongs to: a line of `k2 eval --json`. Never just a model's name: stage and checkpoint."""

    checkpoint: str
    stage: str
    step: int
    tokens: int
    suite: str


def read_scores(layout: RunLayout) -> list[ScoreRow]:
    """Every score of the run, by tokens trained, then in the order in which they were written; what is scored task by task and not (yet)
    part of a checkpoint's own scores comes behind them."""
    closed = [receipt for receipt in receipts_in(layout.all_scores) if receipt.kind == "scores"]
    known = {(receipt.name, score["task"]) for receipt in closed for score in receipt.facts["scores"]}
    single = [r for r in task_receipts(layout) if (r.name, r.facts["task"]) not in known]
    ordered = sorted([*closed, *single], key=lambda r: (r.facts["tokens"], r.name))
    return [line for receipt in ordered for line in rows_of(receipt)]


def task_receipts(layout: RunLayout) -> list[Receipt]:
    """The receipts of all that is scored task by task, by checkpoint, suite and task."""
    folders = sorted(path for path in layout.all_task_scores.glob("*/*") if path.is_dir())
    return [receipt for folder in folders for receipt in receipts_in(folder)]


def rows_of(receipt: Receipt) -> list[ScoreRow]:
    """The rows of one scored checkpoint."""
    facts = receipt.facts
    belongs = {
        "checkpoint": receipt.name,
        "stage": facts["stage"],
        "step": facts["step"],
        "tokens": facts["tokens"],
        "suite": facts["suite"],
    }
    return [ScoreRow.model_validate({**score, **belongs}) for score in facts["scores"]]
