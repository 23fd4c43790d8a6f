"""What `k2 spikes benchmark` prints: all detectors on the synthetic families, on recorded curves, and on both together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from k2.recipe.spikes import Spikes
from k2.watch.benchmark import BENCHMARK, Score, contenders, empty_score, run_curves, run_families
from k2.watch.curves import LabelledCurve, read_folder
from k2.watch.families import TINY, Curve, Scale

_SETTLED_STEPS = 5000  # the loss falls too quickly before to be anybody's calm ground
_GROUNDS = 20  # a curve lends its noise when it is so many times as long as what is cut out of it


@dataclass(frozen=True)
class Comparison:
    """The detectors' scores, by detector: on synthetic curves, on recorded ones, and on families put on recorded noise."""

    persistence_steps: int
    seeds: int
    synthetic: dict[str, Score]
    recorded: dict[str, Score] | None
    on_recorded_noise: dict[str, Score] | None

    def shown(self) -> dict[str, Any]:
        sections = {"synthetic": self.synthetic, "recorded": self.recorded, "on_recorded_noise": self.on_recorded_noise}
        rows = {name: {d: s.row() for d, s in scores.items()} if scores else None for name, scores in sections.items()}
        return {"persistence_steps": self.persistence_steps, "seeds": self.seeds} | rows

    def text(self) -> str:
        parts = [_families_table(f"synthetic families, {self.seeds} curves each, persistence {self.persistence_steps}", self.synthetic)]
        if self.recorded:
            parts.append(_curves_table(self.recorded))
        if self.on_recorded_noise:
            parts.append(_families_table("the same families on the recorded curves' own noise", self.on_recorded_noise))
        return "\n\n".join((*parts, _NOTE))


_NOTE = """\
Shares are of the curves that were acted on; steps count from the onset, it included. Published rules know alarms only: each is an
action. A recorded rise (>= 0.1 nat for >= 500 steps) is caught when a malignant verdict's onset lies 300 steps before to 800 after
it, or when it begins within 5,000 steps after a verdict, where the run would have been rolled back; strictly, only by the former."""


def compare(spikes: Spikes, seeds: Sequence[int], folder: Path | None = None) -> Comparison:
    """Run everything. Takes about 0.2 s a seed, and 20 s a million recorded steps."""
    detectors, scale = contenders(spikes), _scale(spikes)
    synthetic = run_families(detectors, scale, seeds)
    if folder is None:
        return Comparison(spikes.persistence_steps, len(seeds), synthetic, None, None)
    recorded = {name: empty_score() for name in detectors}
    grounds: list[Curve] = []
    for curve in read_folder(folder):
        run_curves(detectors, [curve], recorded)
        grounds += _grounds(curve, scale)
    noisy = run_families(detectors, scale, seeds, grounds) if grounds else None
    return Comparison(spikes.persistence_steps, len(seeds), synthetic, recorded, noisy)


def _scale(spikes: Spikes) -> Scale:
    steps = spikes.persistence_steps
    if steps < 50:
        return replace(TINY, persistence_steps=steps)
    return replace(BENCHMARK, persistence_steps=steps, onset=12 * steps, length=18 * steps)


def _grounds(curve: LabelledCurve, scale: Scale) -> list[Curve]:
    """Stretches of a clean curve that spikes can be put on."""
    losses = np.array([record.loss for record in curve.records])
    if not curve.is_clean or len(losses) < _GROUNDS * scale.length:
        return []
    starts = range(_SETTLED_STEPS, len(losses) - scale.length, scale.length)
    return [losses[start : start + scale.length] for start in starts]


def _families_table(title: str, scores: dict[str, Score]) -> str:
    head = ("", "malignant", "creep", "benign", "calm", "onset p95", "verdict p50", "p95", "creep p95", "bad resume", "us a step")
    rows = [
        (
            name,
            _percent(row["recall_synthetic"]),
            _percent(row["recall_creep"]),
            _percent(row["benign_escalated"]),
            _percent(row["calm_escalated"]),
            _number(row["onset_p95"], 0),
            _number(row["verdict_p50"], 0),
            _number(row["verdict_p95"], 0),
            _number(row["creep_p95"], 0),
            _number(row["bad_resume_steps"], 0),
            _number(row["microseconds"], 1),
        )
        for name, row in ((name, score.row()) for name, score in scores.items())
    ]
    return _table(title, head, rows)


def _curves_table(scores: dict[str, Score]) -> str:
    clean = next(iter(scores.values())).clean_steps
    head = ("", "rises caught", "strictly", "actions/100k clean", "bad resumes", "at step", "us a step")
    rows = [
        (
            name,
            f"{score.caught} of {score.rises}",
            f"{score.caught_strictly} of {score.rises}",
            _number(score.row()["false_per_100k"], 2),
            f"{len(score.bad_resume_steps)} of {score.bad_resumes}",
            _number(max(score.bad_resume_steps, default=None), 0),
            _number(score.row()["microseconds"], 1),
        )
        for name, score in scores.items()
    ]
    return _table(f"recorded curves, {clean:,} clean steps among them", head, rows)


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in (head, *rows)
    ]
    return "\n".join((title, *(line.rstrip() for line in lines)))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
