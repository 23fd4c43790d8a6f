"""Trainers and evaluators as processes of this host, each under its supervisor.

What enters is recipe, place and action; what leaves is an exit code, or an evaluator's answers. The output of the
processes is appended to the run's logs. The lease's descriptor is handed down to them, so the run stays held until
the last of them is gone.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k2.launch.command import USUAL_SUPERVISION, Command, Supervision, evaluator_command, mark, trainer_command
from k2.launch.process import Line, count_cuda_devices, end, find_device, launch
from k2.launch.seats import seats
from k2.launch.strays import end_strays
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.control import request_stop
from k2.run.holdings import Duty
from k2.run.layout import RunLayout
from k2.run.lease import Lease
from k2.run.plan import Train

Question = dict[str, str | int | None]  # what `python -m k2.eval` reads; None: not said


class Trainer:
    """One segment: the supervisor of torchrun of the ranks. As a context manager it never leaves a process behind."""

    def __init__(self, process: subprocess.Popen[bytes], layout: RunLayout, attempt: int, grace_seconds: float) -> None:
        self._process, self._layout, self._grace_seconds = process, layout, grace_seconds
        self._code: int | None = None
        self.attempt = attempt

    @classmethod
    def start(
        cls, recipe: Recipe, place: Place, layout: RunLayout, action: Train, lease: Lease, supervision: Supervision = USUAL_SUPERVISION
    ) -> Self:
        """Launch the segment of the run whose lease is held. Strays of a supervisor that was killed are ended first."""
        end_strays(mark("trainer", layout))
        device = find_device(place)
        command = trainer_command(recipe, place, layout, action, os.environ, device=device, supervision=supervision, lock=lease.descriptor)
        log = layout.trainer_log(action.attempt) if action.probe is None else layout.probe_log(action.probe)
        process = launch(command, log, (lease.descriptor,))
        return cls(process, layout, action.attempt, supervision.grace_seconds)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, 128 + n for a death by signal n; None while anything of the segment lives."""
        return self._settle(self._process.poll())

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """The exit code, or None when something still lives after the time."""
        try:
            return self._settle(self._process.wait(timeout_seconds))
        except subprocess.TimeoutExpired:
            return None

    def stop(self, reason: str, patience_seconds: float = 120.0) -> int:
        """Ask the ranks to finish their step, save and leave with 0; wait, and end what did not answer. The exit code."""
        request_stop(self._layout, self.attempt, reason)
        code = self.wait(patience_seconds)
        return self.terminate() if code is None else code

    def terminate(self) -> int:
        """SIGTERM to every process, SIGKILL after the grace. The exit code."""
        return self._end(signal.SIGTERM, self._grace_seconds)

    def kill(self) -> int:
        """SIGKILL to every process now: for ranks that hang. The exit code."""
        return self._end(signal.SIGQUIT, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.poll() is None:
            self.terminate()

    def _end(self, number: signal.Signals, grace_seconds: float) -> int:
        code = self._settle(end(self._process, number, grace_seconds))
        assert code is not None
        return code

    def _settle(self, code: int | None) -> int | None:
        """Once the supervisor has ended. A negative code: it was killed itself, and its ranks have nobody."""
        if code is None or self._code is not None:
            return self._code
        if code < 0:
            end_strays(mark("trainer", self._layout))
        self._code = code if code >= 0 else 128 - code
        return self._code


class EvaluatorAnswer(BaseModel):
    """What the evaluator says to one question. Fields that it adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: int
    ok: bool
    error: str | None = Field(default=None, description="why not, for a person")
    permanent: bool = Field(default=False, description="asking again cannot help")


class EvaluatorFailed(RuntimeError):
    """No answer: the evaluator died twice, took too long, or was closed. The text names its log."""


class EvaluatorClosed(EvaluatorFailed):
    """No answer, and none will come: the run is ending. Asking again is no use."""


class Evaluator:
    """The evaluator's process, started at the first question and kept. One question at a time, from any thread."""

    def __init__(
        self,
        make_command: Callable[[int, int], Command],
        layout: RunLayout,
        lease: Lease,
        number: int = 0,
        ready_seconds: float = 180.0,
    ) -> None:
        """`make_command` is given the descriptors of the process's input and output. `number` is the evaluator's among those of the run."""
        self._make_command, self._layout, self._lease, self._ready_seconds = make_command, layout, lease, ready_seconds
        self._number = number
        self._asking = threading.Lock()
        self._asked = 0
        self._line: Line | None = None
        self._closed = False

    @classmethod
    def of(cls, place: Place, layout: RunLayout, lease: Lease, number: int = 0) -> Self:
        """The evaluator of the run whose lease is held, on the place's device of that number."""

        def command(requests: int, answers: int) -> Command:
            seat = seats(place, os.environ, count_cuda_devices())[number]
            return evaluator_command(place, layout, os.environ, requests=requests, answers=answers, seat=seat, lock=lease.descriptor)

        return cls(command, layout, lease, number)

    @property
    def log(self) -> Path:
        return self._layout.evaluator_log(self._number)

    def ask(
        self,
        duty: Duty | Literal["window"],
        checkpoint: str,
        timeout_seconds: float = 1800.0,
        incident: int | None = None,
        suite: str | None = None,
        task: str | None = None,
    ) -> EvaluatorAnswer:
        """Have one duty of one checkpoint done, or of one that an incident keeps; with a suite that the recipe does not ask for, or only
        one of its tasks, if they are named. An evaluator that dies over it is started again, once."""
        question: Question = {"duty": duty, "checkpoint": checkpoint, "incident": incident, "suite": suite, "task": task}
        with self._asking:
            for _ in range(2):
                try:
                    return self._answer(question, timeout_seconds)
                except EOFError:
                    self._hang_up()
                except TimeoutError:
                    self._hang_up()
                    raise EvaluatorFailed(f"the evaluator gave no answer to {checkpoint} {duty} in time; see {self.log}") from None
            raise EvaluatorFailed(f"the evaluator died twice over {checkpoint} {duty}; see {self.log}")

    def close(self) -> None:
        """End the process, in the middle of an answer too."""
        self._closed = True
        line = self._line
        if line is not None:
            line.kill()
        with self._asking:
            self._hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _answer(self, question: Question, timeout_seconds: float) -> EvaluatorAnswer:
        line = self._connect()
        self._asked += 1
        line.say({"id": self._asked, **{name: value for name, value in question.items() if value is not None}})
        deadline = time.monotonic() + timeout_seconds
        while True:
            answer = _parse_answer(line.hear(deadline))
            if answer is not None and answer.id == self._asked:
                return answer

    def _connect(self) -> Line:
        """The line to a process that has said that it is ready."""
        if self._line is None and not self._closed:
            end_strays(mark("evaluator", self._layout, self._number))
            self._line = Line(self._make_command, self.log, (self._lease.descriptor,))
            deadline = time.monotonic() + self._ready_seconds
            while not self._closed and not _is_ready(self._line.hear(deadline)):
                pass
        if self._line is None or self._closed:
            raise EvaluatorClosed("the evaluator was closed")
        return self._line

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


def _parse_answer(line: bytes) -> EvaluatorAnswer | None:
    """None for a line that is no answer, such as what a library printed."""
    try:
        return EvaluatorAnswer.model_validate_json(line)
    except ValidationError:
        return None


def _is_ready(line: bytes) -> bool:
    try:
        said = json.loads(line)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("ready") is True
