"""The spike detector: pure, streaming, without a clock. Step records enter one by one, verdicts leave.

A robust lagged reference (`reference.LaggedReference`) says what is normal. It is frozen while an episode is
open, and only what lies above it counts. An episode that grows quiet is benign; one that is still elevated after
`persistence_steps` is malignant (K2 §3.1: 100 steps). Every window scales with that number, so a miniature and a
run of 338,760 steps use one rule. The same records give the same verdicts online, replayed or restored.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Self

from k2.recipe.spikes import Spikes
from k2.run.records import StepRecord
from k2.watch.episode import Episode, Reading, Windows
from k2.watch.event import Event, Kind
from k2.watch.reference import LaggedReference, Normal

_RELATIVE_FLOOR = 0.002  # of the reference: the least spread that is believed
_GRAD_RATIO = 8.0  # a norm below 8x its median is no grad_only event, however narrow its spread
_MEDIAN_ERRORS = 5.0  # a level must also stand so many standard errors of its own median above the reference
_NONFINITE_LIMIT = 3
_TRAIN_EPISODES = 5


class Detector:
    """Watches one stage. `observe` takes the records of the accepted lineage in the order of their steps.

    A record that is out of order, repeated or of an older attempt is dropped. Gaps (skipped steps) do not age an episode.
    """

    def __init__(self, spikes: Spikes) -> None:
        self._spikes = spikes
        self._windows = windows = Windows.of(spikes.persistence_steps)
        self._losses = LaggedReference(windows.reference, windows.lag, windows.warmup)
        self._norms = LaggedReference(windows.reference, windows.lag, windows.warmup)
        self._recent: deque[tuple[int, float]] = deque(maxlen=windows.level)  # (step, loss), outliers too
        self._nonfinite: list[tuple[int, int]] = []  # (count of records, step)
        self._benign: list[tuple[int, int]] = []  # (first step, last loud step)
        self._episode: Episode | None = None
        self._stage, self._attempt, self._step, self._seen = "", 0, 0, 0
        self._resumed_at: int | None = None  # count of records at the first one of a resumed attempt
        self._loud_in_a_row = 0
        self._norm_is_up = False

    def observe(self, record: StepRecord) -> Event | None:
        """The verdict that falls with this record, if one does."""
        if record.attempt < self._attempt or (record.attempt == self._attempt and record.step <= self._step):
            return None
        self._enter(record)
        reading = self._read(record)
        self._track(reading)
        return self._judge_nonfinite(reading) or self._judge_resume(reading) or self._judge_loss(reading) or self._judge_norm(reading)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "losses": self._losses.state(),
            "norms": self._norms.state(),
            "recent": [list(pair) for pair in self._recent],
            "nonfinite": [list(pair) for pair in self._nonfinite],
            "benign": [list(pair) for pair in self._benign],
            "episode": None if self._episode is None else asdict(self._episode),
            "position": [self._stage, self._attempt, self._step, self._seen],
            "resume": [self._resumed_at, self._loud_in_a_row],
            "norm_is_up": self._norm_is_up,
        }

    @classmethod
    def restore(cls, spikes: Spikes, state: dict[str, Any]) -> Self:
        """A detector that goes on exactly where `state` was taken."""
        detector = cls(spikes)
        detector._losses.restore(state["losses"])
        detector._norms.restore(state["norms"])
        detector._recent.extend((step, loss) for step, loss in state["recent"])
        detector._nonfinite = [(count, step) for count, step in state["nonfinite"]]
        detector._benign = [(first, last) for first, last in state["benign"]]
        detector._episode = None if state["episode"] is None else Episode(**state["episode"])
        detector._stage, detector._attempt, detector._step, detector._seen = state["position"]
        detector._resumed_at, detector._loud_in_a_row = state["resume"]
        detector._norm_is_up = state["norm_is_up"]
        return detector

    def _enter(self, record: StepRecord) -> None:
        self._seen += 1
        if record.attempt != self._attempt and self._seen > 1:
            # inside an episode a resumed run is loud because of the episode, not because of the resume
            self._resumed_at = self._seen if self._episode is None else None
            self._loud_in_a_row = 0
        self._stage, self._attempt, self._step = record.stage, record.attempt, record.step

    def _read(self, record: StepRecord) -> Reading:
        norm_known = self._norms.normal is not None or math.isfinite(record.grad_norm)
        broken = not math.isfinite(record.loss) or (norm_known and not math.isfinite(record.grad_norm))
        normal = self._normal()
        log_norm = math.log(record.grad_norm) if math.isfinite(record.grad_norm) and record.grad_norm > 0 else None
        if broken:
            return Reading(record.step, None, 0.0, 0.0, log_norm)
        self._recent.append((record.step, record.loss))
        if normal is None:
            return Reading(record.step, record.loss, 0.0, 0.0, log_norm)
        rise = record.loss - normal.centre
        return Reading(record.step, record.loss, rise, rise / normal.deviation, log_norm)

    def _normal(self) -> Normal | None:
        """The reference of the loss, with the floor of its spread."""
        normal = self._losses.normal
        if normal is None:
            return None
        return Normal(normal.centre, max(normal.deviation, _RELATIVE_FLOOR * abs(normal.centre), 1e-12))

    def _track(self, reading: Reading) -> None:
        """Age the open episode, open one, or accept the loss as normal."""
        normal = self._normal()
        if self._episode is None and normal is not None and (reading.is_loud(self._spikes.onset_z) or self._level_is_up(normal)):
            self._episode = self._begin(reading, normal)
        if self._episode is not None:
            self._episode.add(reading, self._spikes, self._quiet_band(), self._norms.normal)
        elif reading.loss is not None:
            self._losses.accept(reading.loss)

    def _begin(self, reading: Reading, normal: Normal) -> Episode:
        """An episode that began where the steps before were loud already; half a level window ago when only the level shows it."""
        before = [(step, loss) for step, loss in self._recent if step != reading.step]
        if reading.is_loud(self._spikes.onset_z):
            begun = _run_at_end(before, normal.centre + self._spikes.quiet_z * normal.deviation)
        else:
            begun = [step for step, _ in before[-(self._windows.level // 2) :]]
        return Episode(begun[0] if begun else reading.step, len(begun))

    def _judge_nonfinite(self, reading: Reading) -> Event | None:
        """Three non-finite steps in twenty are malignant at once; one alone is an ordinary episode."""
        if reading.loss is None:
            self._nonfinite.append((self._seen, reading.step))
        self._nonfinite = [(count, step) for count, step in self._nonfinite if count > self._seen - self._windows.nonfinite]
        if len(self._nonfinite) < _NONFINITE_LIMIT:
            return None
        if self._episode is None:  # still warming up
            first_count, first_step = self._nonfinite[0]
            self._episode = Episode(first_step, self._seen - first_count + 1)
        return self._verdict("nonfinite", self._episode, reading.step)

    def _judge_resume(self, reading: Reading) -> Event | None:
        """Two loud steps in a row just after a resume. One alone may be the data."""
        self._loud_in_a_row = self._loud_in_a_row + 1 if reading.is_loud(self._spikes.onset_z) else 0
        if self._resumed_at is None or self._seen >= self._resumed_at + self._windows.resume:
            self._resumed_at = None
            return None
        if self._loud_in_a_row < 2 or self._episode is None:
            return None
        return self._verdict("bad_resume", self._episode, reading.step)

    def _judge_loss(self, reading: Reading) -> Event | None:
        """The end of the open episode, or its verdict when it has lasted too long."""
        episode, normal = self._episode, self._normal()
        if episode is None:
            return None
        if episode.quiet >= self._windows.quiet:
            return self._close(episode, reading)
        if episode.age >= self._windows.rebase:
            self._rebase()
            return None
        if episode.age >= self._spikes.persistence_steps and self._still_elevated(episode, reading, normal):
            return self._verdict("malignant.long" if episode.loud else "malignant.creep", episode, reading.step)
        return None

    def _close(self, episode: Episode, reading: Reading) -> Event | None:
        """The episode has grown quiet: benign, unless it is one of a train, or was judged before."""
        event = None
        if not episode.judged:
            self._benign.append(episode.span)
            event = self._judge_train(episode, reading)
        for _ in range(len(self._recent) - self._windows.quiet):
            self._recent.popleft()  # what was loud must not look like a level
        self._episode = None
        return event

    def _judge_train(self, episode: Episode, reading: Reading) -> Event:
        """Five benign episodes that cover more than 100 of 300 steps are malignant together."""
        earliest = reading.step - self._windows.train
        self._benign = [(first, last) for first, last in self._benign if last > earliest]
        covered = sum(last - max(first, earliest + 1) + 1 for first, last in self._benign)
        if len(self._benign) < _TRAIN_EPISODES or covered <= self._spikes.persistence_steps:
            return self._event("benign", episode, reading.step)
        episode.onset_step, episode.age = self._benign[0][0], reading.step - self._benign[0][0] + 1
        self._benign = []
        return self._event("malignant.train", episode, reading.step)

    def _judge_norm(self, reading: Reading) -> Event | None:
        """The gradient norm by the same scheme, on its logarithm: an early warning while the loss is calm."""
        normal = self._norms.normal
        if reading.log_norm is None or self._episode is not None:
            return None
        if normal is None:
            self._norms.accept(reading.log_norm)
            return None
        rise = reading.log_norm - normal.centre
        was_up, self._norm_is_up = self._norm_is_up, rise > max(math.log(_GRAD_RATIO), self._spikes.onset_z * normal.deviation)
        if not self._norm_is_up:
            self._norms.accept(reading.log_norm)
            return None
        if was_up:
            return None
        return self._event("grad_only", Episode(reading.step, 1, rise=reading.rise, z=reading.z, norms=1), reading.step)

    def _level_is_up(self, normal: Normal) -> bool:
        if len(self._recent) < self._windows.level:
            return False
        median = sorted(loss for _, loss in self._recent)[self._windows.level // 2]
        error = 1.2533 * normal.deviation / math.sqrt(self._windows.level)  # of a median of normal values
        return median - normal.centre > max(self._quiet_band(), _MEDIAN_ERRORS * error)

    def _quiet_band(self) -> float:
        normal = self._normal()
        return max(self._spikes.level_deviations * (normal.deviation if normal else 0.0), self._spikes.level_nats)

    def _still_elevated(self, episode: Episode, reading: Reading, normal: Normal | None) -> bool:
        return reading.loss is None or 3 * episode.quiet < self._windows.quiet or (normal is not None and self._level_is_up(normal))

    def _rebase(self) -> None:
        """After so long what was abnormal is the new normal."""
        self._episode = None
        self._losses.forget()
        self._norms.forget()
        self._recent.clear()

    def _verdict(self, kind: Kind, episode: Episode, step: int) -> Event | None:
        """The malignant verdict on the open episode; None when it is out already."""
        if episode.judged:
            return None
        episode.judged = True
        return self._event(kind, episode, step)

    def _event(self, kind: Kind, episode: Episode, step: int) -> Event:
        normal = self._normal() or Normal(0.0, 0.0)
        return Event(
            kind=kind,
            stage=self._stage,
            attempt=self._attempt,
            onset_step=episode.onset_step,
            verdict_step=step,
            rise_nats=episode.rise,
            z=episode.z,
            reference=normal.centre,
            deviation=normal.deviation,
            age=episode.age,
            small_grad_fraction=episode.small_grad_fraction,
        )


def observe(detector: Detector, records: Iterable[StepRecord]) -> Iterator[Event]:
    """The detector's events over the records, one by one."""
    for record in records:
        event = detector.observe(record)
        if event is not None:
            yield event


def _run_at_end(recent: list[tuple[int, float]], above: float) -> list[int]:
    """The newest steps whose losses all lie above `above`, oldest first."""
    start = len(recent)
    while start > 0 and recent[start - 1][1] > above:
        start -= 1
    return [step for step, _ in recent[start:]]
