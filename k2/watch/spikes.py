"""The spike detector: pure, streaming, without a clock. Step records enter one by one, events leave.

A robust lagged reference (`reference.LaggedReference`) says what is normal. It is frozen while an episode is
open, and only what lies above it counts. An episode that grows quiet is benign; one that is still elevated after
`persistence_steps` is malignant (K2 §3.1: 100 steps). Every window scales with that number, so a miniature and a
run of 338,760 steps use one rule. The same records give the same events online, replayed or restored.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Self

from k2.recipe.spikes import Spikes
from k2.run.records import StepRecord
from k2.watch.episode import Episode, Reading, Windows
from k2.watch.event import Event, Kind
from k2.watch.gradient import GradientWatch
from k2.watch.reference import LaggedReference, Normal
from k2.watch.resuming import ResumeWatch
from k2.watch.silence import SilenceWatch


class Detector:
    """Watches the records of the accepted lineage in the order of their steps; a new stage begins with a new reference.

    A record that is out of order, repeated or of an older attempt is dropped. Gaps (skipped steps) do not age an episode.
    `boundaries` are steps at which a small shift of the level is expected (`stage.expected_boundaries`).
    """

    def __init__(self, spikes: Spikes, boundaries: Collection[int] = ()) -> None:
        self._spikes, self._boundaries = spikes, boundaries
        self._windows = windows = Windows.of(spikes)
        self._losses = LaggedReference(windows.reference, windows.lag, windows.warmup)
        self._gradient = GradientWatch(spikes, windows)
        self._resume = ResumeWatch(spikes, windows)
        self._silence = SilenceWatch()
        self._recent: deque[tuple[int, float]] = deque(maxlen=windows.level)  # (step, loss), outliers too
        self._nonfinite: list[tuple[int, int]] = []  # (count of records, step)
        self._benign: list[tuple[int, int]] = []  # (first step, last loud step)
        self._episode: Episode | None = None
        self._stage, self._attempt, self._step, self._seen = "", 0, 0, 0

    def expect(self, recorded: Mapping[int, float]) -> None:
        """Before a resume: the losses that were recorded of steps which are now trained again, from the same state and data."""
        self._resume.expect(recorded)

    def observe(self, record: StepRecord) -> Event | None:
        """The event that falls with this record, if one does."""
        if record.attempt < self._attempt or (record.attempt == self._attempt and record.step <= self._step):
            return None
        self._enter(record)
        reading = self._read(record)
        differs, loud = self._resume.differs(record.step, record.loss), reading.is_loud(self._spikes.onset_z)
        self._track(reading)
        bad = self._resume.is_bad(loud) or differs
        stalled = self._silence.broken_by(record)
        return (
            self._judge_nonfinite(reading)
            or (self._verdict("bad_resume", self._episode or self._resumed_badly(reading), reading.step) if bad else None)
            or self._judge_loss(reading)
            or self._judge_norm(reading)
            or (self._passing("stall", reading) if stalled else None)
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "losses": self._losses.state(),
            "gradient": self._gradient.state(),
            "resume": self._resume.state(),
            "silence": self._silence.state(),
            "recent": [list(pair) for pair in self._recent],
            "nonfinite": [list(pair) for pair in self._nonfinite],
            "benign": [list(pair) for pair in self._benign],
            "episode": None if self._episode is None else asdict(self._episode),
            "position": [self._stage, self._attempt, self._step, self._seen],
        }

    @classmethod
    def restore(cls, spikes: Spikes, state: dict[str, Any], boundaries: Collection[int] = ()) -> Self:
        """A detector that goes on exactly where `state` was taken."""
        detector = cls(spikes, boundaries)
        detector._losses.restore(state["losses"])
        detector._gradient.restore(state["gradient"])
        detector._resume.restore(state["resume"])
        detector._silence.restore(state["silence"])
        detector._recent.extend((step, loss) for step, loss in state["recent"])
        detector._nonfinite = [(count, step) for count, step in state["nonfinite"]]
        detector._benign = [(first, last) for first, last in state["benign"]]
        detector._episode = None if state["episode"] is None else Episode(**state["episode"])
        detector._stage, detector._attempt, detector._step, detector._seen = state["position"]
        return detector

    def _enter(self, record: StepRecord) -> None:
        if record.stage != self._stage and self._seen:
            self._begin_anew()
        elif record.attempt != self._attempt and self._seen:
            self._resume.begin(in_episode=self._episode is not None)
        self._seen += 1
        self._stage, self._attempt, self._step = record.stage, record.attempt, record.step

    def _begin_anew(self) -> None:
        """Another stage has another mix, batch and context: nothing of the last one's level is known of it."""
        self._episode, self._nonfinite, self._benign = None, [], []
        self._losses.forget()
        self._gradient.forget()
        self._recent.clear()

    def _read(self, record: StepRecord) -> Reading:
        norm_known = self._gradient.normal is not None or math.isfinite(record.grad_norm)
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
        return Normal(normal.centre, max(normal.deviation, self._spikes.relative_floor * abs(normal.centre), 1e-12))

    def _track(self, reading: Reading) -> None:
        """Age the open episode, open one, or accept the loss as normal. In a cool-down an outlier does neither."""
        if self._episode is None:
            normal = self._normal()
            begins = normal is not None and (reading.is_loud(self._spikes.onset_z) or self._level_is_up(normal))
            if begins and not self._resume.cooling:
                self._episode = self._begin(reading)
            elif not begins and reading.loss is not None:
                self._losses.accept(reading.loss)
        if self._episode is not None:
            self._episode.add(reading, self._spikes, self._quiet_band(), self._gradient.normal)

    def _begin(self, reading: Reading) -> Episode:
        """An episode that began where the steps before were loud already; half a level window ago when only the level shows it."""
        before, normal = [(step, loss) for step, loss in self._recent if step != reading.step], self._normal()
        if normal is None:
            begun = []
        elif reading.is_loud(self._spikes.onset_z):
            begun = _run_at_end(before, normal.centre + self._spikes.quiet_z * normal.deviation)
        else:
            begun = [step for step, _ in before[-(self._windows.level // 2) :]]
        return Episode(begun[0] if begun else reading.step, len(begun))

    def _resumed_badly(self, reading: Reading) -> Episode:
        """The episode of a bad resume that a cool-down, or a quiet loss, did not open."""
        episode = self._begin(reading) if reading.is_loud(self._spikes.onset_z) else Episode(reading.step, 0)
        episode.add(reading, self._spikes, self._quiet_band(), self._gradient.normal)
        return episode

    def _judge_nonfinite(self, reading: Reading) -> Event | None:
        """Three non-finite steps in twenty are malignant at once; one alone is an ordinary episode."""
        if reading.loss is None:
            self._nonfinite.append((self._seen, reading.step))
        self._nonfinite = [(count, step) for count, step in self._nonfinite if count > self._seen - self._windows.nonfinite]
        if len(self._nonfinite) < self._spikes.nonfinite_steps:
            return None
        if self._episode is None:  # still warming up, or cooling down
            first_count, first_step = self._nonfinite[0]
            self._episode = Episode(first_step, self._seen - first_count + 1)
        return self._verdict("nonfinite", self._episode, reading.step)

    def _judge_loss(self, reading: Reading) -> Event | None:
        """The end of the open episode, its verdict when it has lasted too long, or what is likely to become one."""
        episode = self._episode
        if episode is None:
            return None
        if episode.quiet >= self._windows.quiet:
            return self._close(episode, reading)
        if episode.age >= self._windows.rebase:
            self._rebase()
            return None
        if not episode.judged and episode.age >= self._spikes.persistence_steps and self._still_elevated(episode, reading):
            return self._judge_elevated(episode, reading)
        if not episode.judged and episode.high == self._windows.candidate:
            return self._event("pause_candidate", episode, reading.step)
        return None

    def _judge_elevated(self, episode: Episode, reading: Reading) -> Event | None:
        if self._is_expected(episode):
            event = self._event("phase_shift", episode, reading.step)
            self._rebase()
            return event
        return self._verdict("malignant.long" if episode.loud else "malignant.creep", episode, reading.step)

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
        if len(self._benign) < self._spikes.train_episodes or covered <= self._spikes.persistence_steps:
            return self._event("benign", episode, reading.step)
        episode.onset_step, episode.age = self._benign[0][0], reading.step - self._benign[0][0] + 1
        self._benign = []
        return self._event("malignant.train", episode, reading.step)

    def _judge_norm(self, reading: Reading) -> Event | None:
        """An early warning while the loss is calm."""
        if self._episode is not None or not self._gradient.warns(reading):
            return None
        return self._passing("grad_only", reading)

    def _level_is_up(self, normal: Normal) -> bool:
        if len(self._recent) < self._windows.level:
            return False
        error = 1.2533 * normal.deviation / math.sqrt(self._windows.level)  # of a median of normal values
        return self._level() - normal.centre > max(self._quiet_band(), self._spikes.level_errors * error)

    def _level(self) -> float:
        return _median([loss for _, loss in self._recent])

    def _quiet_band(self) -> float:
        normal = self._normal()
        return max(self._spikes.level_deviations * (normal.deviation if normal else 0.0), self._spikes.level_nats)

    def _still_elevated(self, episode: Episode, reading: Reading) -> bool:
        normal = self._normal()
        return reading.loss is None or 3 * episode.quiet < self._windows.quiet or (normal is not None and self._level_is_up(normal))

    def _is_expected(self, episode: Episode) -> bool:
        """Whether it is a small, settled shift of the level (never a loud one) that began at a declared boundary."""
        normal, half = self._normal(), self._windows.level // 2
        before, after = self._windows.boundary, self._windows.boundary + self._windows.level  # a small one shows up to a window later
        near = any(-before <= episode.onset_step - step <= after for step in self._boundaries)
        if episode.loud or normal is None or not near:
            return False
        losses, band = [loss for _, loss in self._recent], self._quiet_band()
        return self._level() - normal.centre <= 2 * band and _median(losses[-half:]) - _median(losses[:-half]) <= band / 2

    def _rebase(self) -> None:
        """The level of the newest losses is the new normal; their spread is believed to be the old one's."""
        normal = self._normal()
        if normal is not None and self._recent:
            self._losses.shift(self._level() - normal.centre)
        self._gradient.forget()
        self._episode = None

    def _verdict(self, kind: Kind, episode: Episode, step: int) -> Event | None:
        """The malignant verdict on the episode, which stays open; None when it is out already."""
        if episode.judged:
            return None
        episode.judged, self._episode = True, episode
        return self._event(kind, episode, step)

    def _passing(self, kind: Kind, reading: Reading) -> Event:
        """An event of one step that is no episode."""
        norms = int(reading.log_norm is not None and kind == "grad_only")
        return self._event(kind, Episode(reading.step, 1, rise=reading.rise, z=reading.z, norms=norms), reading.step)

    def _event(self, kind: Kind, episode: Episode, step: int) -> Event:
        normal = self._normal() or Normal(0.0, 0.0)
        small = episode.small_grad_fraction
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
            small_grad_fraction=small,
            k2_confirmed=None if small is None else small >= self._spikes.small_grad_share,
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


def _median(values: list[float]) -> float:
    """The upper median."""
    return sorted(values)[len(values) // 2]
