"""Detectors side by side: on the synthetic families, and on a folder of recorded curves with labels.

What enters are detectors (ours and the published rules) and curves; what leaves is a row of figures a detector.
A rise counts as caught by the specification's rule (3.1) when a malignant verdict's onset lies between 300 steps
before and 800 after it, or when it begins within 5,000 steps after a verdict, where the run would have been rolled
back already; strictly, only the former counts. Where a rule knows alarms alone, an alarm is onset and verdict.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from k2.recipe.spikes import Spikes
from k2.run.records import StepRecord
from k2.watch.curves import LabelledCurve, Rise
from k2.watch.families import BENIGN, CALM, MALIGNANT, Curve, Scale, gradient_norms, parts, records, resumed_records
from k2.watch.published import PUBLISHED, Rule
from k2.watch.spikes import Detector, observe

_NEAR_BEFORE, _NEAR_AFTER, _ROLLED_BACK = 300, 800, 5000
_ALARM_GAP = 50  # alarms no further apart are one

BENCHMARK = Scale(100, 0.022, onset=1200, length=1800)  # the longest published window, 1,000, is full before the spike


@dataclass(frozen=True)
class Found:
    """What a detector says of one curve: onsets of anything, and (onset, verdict) of what it acts on.

    `num_actions` counts alarms in a row as one.
    """

    onsets: list[int]
    actions: list[tuple[int, int]]
    num_actions: int
    seconds: float


Contender = Callable[[Sequence[StepRecord], frozenset[int]], Found]


def ours(spikes: Spikes) -> Contender:
    """This project's detector with the recipe's numbers."""

    def watch(steps: Sequence[StepRecord], boundaries: frozenset[int]) -> Found:
        begun = time.process_time()
        events = list(observe(Detector(spikes, boundaries), steps))
        seconds = time.process_time() - begun
        actions = [(e.onset_step, e.verdict_step) for e in events if e.malignant]
        return Found([e.onset_step for e in events], actions, len(actions), seconds)

    return watch


def published(rule: Rule) -> Contender:
    """A published rule. It knows nothing of resumes and boundaries."""

    def watch(steps: Sequence[StepRecord], _boundaries: frozenset[int]) -> Found:
        losses = np.array([record.loss for record in steps])
        begun = time.process_time()
        alarms: list[int] = np.flatnonzero(rule(losses)).tolist()
        seconds = time.process_time() - begun
        onsets = [steps[position].step for position in alarms]
        num_episodes = int(np.sum(np.diff(alarms) > _ALARM_GAP)) + 1 if len(alarms) else 0
        return Found(onsets, [(step, step) for step in onsets], num_episodes, seconds)

    return watch


def contenders(spikes: Spikes) -> dict[str, Contender]:
    return {"k2": ours(spikes)} | {name: published(rule) for name, rule in PUBLISHED.items()}


@dataclass
class FamilyScore:
    """Of one family: how many curves there were, how many were acted on, and after how many steps."""

    curves: int = 0
    acted: int = 0
    onset_steps: list[int] = field(default_factory=list)
    verdict_steps: list[int] = field(default_factory=list)


@dataclass
class Score:
    """One detector's figures, as they are counted."""

    families: dict[str, FamilyScore]
    rises: int = 0
    caught: int = 0
    caught_strictly: int = 0
    clean_steps: int = 0
    clean_actions: int = 0
    bad_resume_steps: list[int] = field(default_factory=list)  # from the resume to its verdict, both counted
    bad_resumes: int = 0
    steps: int = 0
    seconds: float = 0.0

    @property
    def recall(self) -> float | None:
        return _share([self.families[name] for name in MALIGNANT])

    @property
    def benign_escalated(self) -> float | None:
        return _share([self.families[name] for name in BENIGN])

    @property
    def calm_escalated(self) -> float | None:
        """Of curves without a spike: clean ones, and shifts of the level that were declared."""
        return _share([self.families[name] for name in CALM])

    def row(self) -> dict[str, Any]:
        """The figures for readers; None where nothing was there to count."""
        onsets = [n for family in self.families.values() for n in family.onset_steps]
        verdicts = [n for name in MALIGNANT if name != "creeps" for n in self.families[name].verdict_steps]
        return {
            "recall_synthetic": self.recall,
            "recall_creep": _share([self.families["creeps"]]),
            "benign_escalated": self.benign_escalated,
            "calm_escalated": self.calm_escalated,
            "rises": self.rises,
            "caught": self.caught,
            "caught_strictly": self.caught_strictly,
            "clean_steps": self.clean_steps,
            "false_per_100k": 1e5 * self.clean_actions / self.clean_steps if self.clean_steps else None,
            "onset_p95": _percentile(onsets, 95),
            "verdict_p50": _percentile(verdicts, 50),
            "verdict_p95": _percentile(verdicts, 95),
            "creep_p95": _percentile(self.families["creeps"].verdict_steps, 95),
            "bad_resumes": self.bad_resumes,
            "bad_resume_steps": max(self.bad_resume_steps) if len(self.bad_resume_steps) == self.bad_resumes > 0 else None,
            "microseconds": 1e6 * self.seconds / self.steps if self.steps else None,
            "families": {name: {"curves": f.curves, "acted": f.acted} for name, f in self.families.items() if f.curves},
        }


def empty_score() -> Score:
    return Score({name: FamilyScore() for name in (*CALM, *BENIGN, *MALIGNANT)})


def run_families(detectors: dict[str, Contender], scale: Scale, seeds: Iterable[int], bases: Sequence[Curve] = ()) -> dict[str, Score]:
    """Every family at every seed. Odd seeds carry gradient norms, even ones none; `bases` are calm curves to put the spikes on."""
    scores = {name: empty_score() for name in detectors}
    for seed in seeds:
        base = bases[seed % len(bases)] if bases else None
        for family in (*CALM, *BENIGN, *MALIGNANT):
            _run_family(detectors, scores, scale, family, seed, base)
    return scores


def _run_family(
    detectors: dict[str, Contender], scores: dict[str, Score], scale: Scale, family: str, seed: int, base: Curve | None
) -> None:
    ground, rise = parts(family, scale, seed, base)
    norms = gradient_norms(np.random.default_rng(seed), rise) if seed % 2 else np.full(scale.length, np.nan)
    loss, onset = ground + rise, scale.onset + 1
    steps = resumed_records(loss, scale.onset, norms) if family == "bad resume" else records(loss, grad_norm=norms)
    boundaries = frozenset({onset}) if family == "data shift" else frozenset[int]()
    first_loud = _first_loud(rise, scale)
    for name, detector in detectors.items():
        found, score = detector(steps, boundaries), scores[name]
        score.steps, score.seconds = score.steps + len(steps), score.seconds + found.seconds
        _count(score.families[family], found, scale, onset, first_loud)
        if family == "bad resume":
            _count_resume(score, found, onset)


def _count(score: FamilyScore, found: Found, scale: Scale, onset: int, first_loud: int | None) -> None:
    """An action counts that begins near the spike or after it; on a curve without one, any."""
    earliest = onset - scale.steps(50)
    acted = [verdict for begun, verdict in found.actions if begun >= earliest and verdict >= onset]
    score.curves += 1
    score.acted += bool(acted)
    score.verdict_steps += [acted[0] - onset + 1] if acted else []
    seen = [begun for begun in found.onsets if begun >= earliest]
    if first_loud is not None and seen:
        score.onset_steps.append(max(0, seen[0] - first_loud))


def _first_loud(rise: Curve, scale: Scale) -> int | None:
    """The first step that stands 10 deviations of the noise too high, or is not finite: none of the noise hides its z of 8."""
    loud = np.flatnonzero(~(rise <= 10 * scale.noise))
    return int(loud[0]) + 1 if len(loud) else None


def run_curves(detectors: dict[str, Contender], curves: Iterable[LabelledCurve], scores: dict[str, Score]) -> None:
    """Every curve of a folder, counted into the scores by its labels."""
    for curve in curves:
        for name, detector in detectors.items():
            found, score = detector(curve.records, frozenset()), scores[name]
            score.steps, score.seconds = score.steps + len(curve.records), score.seconds + found.seconds
            if curve.resumed_at is not None:
                _count_resume(score, found, curve.resumed_at)
            elif curve.is_clean:
                score.clean_steps += len(curve.records)
                score.clean_actions += found.num_actions
            for rise in curve.counted_rises:
                score.rises += 1
                score.caught_strictly += is_caught_strictly(rise, found.actions)
                score.caught += is_caught_strictly(rise, found.actions) or was_rolled_back(rise, found.actions)


def is_caught_strictly(rise: Rise, actions: Iterable[tuple[int, int]]) -> bool:
    return any(rise.step - _NEAR_BEFORE <= onset <= rise.step + _NEAR_AFTER for onset, _ in actions)


def was_rolled_back(rise: Rise, actions: Iterable[tuple[int, int]]) -> bool:
    return any(verdict <= rise.step <= verdict + _ROLLED_BACK for _, verdict in actions)


def _count_resume(score: Score, found: Found, resumed_at: int) -> None:
    score.bad_resumes += 1
    verdicts = [verdict for _, verdict in found.actions if verdict >= resumed_at]
    score.bad_resume_steps += [verdicts[0] - resumed_at + 1] if verdicts else []


def _share(families: Sequence[FamilyScore]) -> float | None:
    curves = sum(family.curves for family in families)
    return sum(family.acted for family in families) / curves if curves else None


def _percentile(values: Sequence[int], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
