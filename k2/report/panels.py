"""Scores over checkpoints: one small panel a task and metric, in the order in which the suite has them.

The receipts under `scores/` enter; drawn panels leave, each with its first and last value written out.
"""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from k2.report.curves import ScorePoint, score_curve
from k2.report.lineage import Lineage
from k2.report.words import number
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, receipts_in


@dataclass(frozen=True)
class ScorePanel:
    task: str
    detail: str
    better: str
    first: str
    last: str
    curve: Markup


def score_panels(layout: RunLayout, lineage: Lineage) -> list[ScorePanel]:
    """One panel for each task, metric and number of shots."""
    scored = sorted(receipts_in(layout.all_scores), key=lambda r: lineage.of(r.facts["stage"]).run_step(r.facts["step"]))
    panels: dict[tuple[str, str, int], list[tuple[Receipt, dict[str, Any]]]] = {}
    for receipt in scored:
        for score in receipt.facts["scores"]:
            panels.setdefault((score["task"], score["metric"], score["shots"]), []).append((receipt, score))
    return [_score_panel(lineage, rows) for rows in panels.values()]


def _score_panel(lineage: Lineage, rows: list[tuple[Receipt, dict[str, Any]]]) -> ScorePanel:
    score = rows[-1][1]
    points = [ScorePoint(lineage.of(r.facts["stage"]).run_step(r.facts["step"]), s["value"], s.get("stderr")) for r, s in rows]
    title = f"{score['task']}, {score['metric']}"
    return ScorePanel(
        task=score["task"],
        detail=f"{score['metric']}, {score['shots']}-shot, {score['samples']:,} samples",
        better="higher is better" if score["higher_is_better"] else "lower is better",
        first=number(points[0].value),
        last=number(points[-1].value),
        curve=score_curve(lineage, title, points),
    )
