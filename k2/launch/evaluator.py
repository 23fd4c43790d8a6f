"""The evaluator as a process of this host, under its supervisor: questions in, answers out, one at a time.

Its output is appended to the run's logs. The lease's descriptor is handed down, so the run stays held until it is gone.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k2.launch.command import Command, evaluator_command, mark
from k2.launch.process import Line, count_cuda_devices
from k2.launch.seats import seats
from k2.launch.strays import end_strays
from k2.recipe.place import Place
from k2.run.holdings import Duty
from k2.run.layout import RunLayout
from k2.run.lease import Lease

Question = dict[str, str | int | None]  # what `python -m k2.eval` reads; None: not said


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
