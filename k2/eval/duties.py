"""The duties that need a model: exporting a checkpoint and scoring it. One evaluator lives across a run's checkpoints.

Enters: a run directory with its tokenizer and suites. Leaves: receipts of exports, of every task's scores, and of a checkpoint's scores.
What all checkpoints share, the libraries, the tokenizer and the tasks, is loaded once. Each task is a unit of its own: one that fails
holds up no other, and a sweep that is killed redoes nothing that has its receipt.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal, assert_never

from k2.checkpoint.huggingface import export_checkpoint, still_of
from k2.eval.attempts import forget_failures, note_failure
from k2.eval.desk import check_data, lay_desk
from k2.eval.harness import LoadedTask, ScoredModel, load_task
from k2.eval.score import Device, ScoringPlace, close_scores, load_scored_model, score_task
from k2.eval.standing import Standing, standing, why_not_owed
from k2.eval.tasks import SuiteTask, tasks_of
from k2.eval.window import LOSSES, ROWS, row_losses
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.durable import sweep, write_durably
from k2.run.layout import KeptLayout, RunLayout
from k2.run.plan import suites_due
from k2.run.receipt import Receipt, find_receipt, read_receipt
from k2.tokenizer import Tokenizer, save_huggingface

EvaluatorDuty = Literal["exported", "evaluated"]


class TasksFailed(RuntimeError):
    """Some tasks could not be scored this time; the others are. Asking again tries them, three times in all."""


class Evaluator:
    """Exports and scores the checkpoints of one run."""

    def __init__(self, recipe: Recipe, layout: RunLayout, place: Place = Place(), device: Device = "cpu") -> None:  # noqa: B008 (frozen)
        self._recipe, self._layout, self._place, self._device = recipe, layout, place, device
        self._suites: dict[str, ScoringPlace] = {}
        self._tasks: dict[tuple[str, str], LoadedTask] = {}
        self._model: tuple[str, ScoredModel] | None = None  # the last one that was asked, by its export

    def warm_up(self) -> None:
        """Load what every checkpoint needs, as far as it is prepared. The report's tasks are many, and are loaded when they are asked."""
        from transformers.models.llama import modeling_llama  # noqa: F401

        suite = self._recipe.evaluation.suite
        if self._layout.suite(suite).is_dir():
            _ = self._tokenizer
            for task in tasks_of(suite):
                if task.files is None and why_not_owed(self._place, task) is None:
                    self._loaded(suite, task)

    def settle(self, checkpoint: str, duty: EvaluatorDuty) -> Receipt:
        """Do the duty, once; give back its receipt."""
        match duty:
            case "exported":
                return export_checkpoint(self._recipe, self._layout, checkpoint, self._write_tokenizer)
            case "evaluated":
                return self._score_what_is_owed(checkpoint)
        assert_never(duty)

    def settle_kept(self, layout: KeptLayout, checkpoint: str, duty: Literal["exported", "window"]) -> Path:
        """Export a checkpoint that an incident keeps, or score the incident's rows with it; the folder that holds the answer."""
        export_checkpoint(self._recipe, layout, checkpoint, self._write_tokenizer)
        if duty == "exported":
            return layout.export(checkpoint)
        losses = row_losses(layout.export(checkpoint), layout.window / ROWS)
        write_durably(layout.window / LOSSES, json.dumps(losses).encode())
        return layout.window

    def score_with(self, checkpoint: str, suite: str) -> list[Receipt]:
        """Score the exported checkpoint with a suite, whether the recipe asks for it or not; the receipts of its tasks. Somebody asks
        for it: what was given up is tried again."""
        forget_failures(self._layout, checkpoint)
        stands = self._score_suite(checkpoint, suite)
        _raise_for_failed(checkpoint, stands.given_up | stands.troubles)
        return list(stands.done)

    def score_one(self, checkpoint: str, suite: str, task: str) -> None:
        """Score the exported checkpoint on one task, once. `TasksFailed` when it could not be scored this time, or was given up."""
        stands = self._score_suite(checkpoint, suite, only=task)
        _raise_for_failed(checkpoint, {name: why for name, why in (stands.given_up | stands.troubles).items() if name == task})

    def _score_what_is_owed(self, checkpoint: str) -> Receipt:
        found = find_receipt(self._layout.scores(checkpoint))
        if found is not None:
            return still_of(found, find_receipt(self._layout.export(checkpoint)))
        stands = [self._score_suite(checkpoint, suite) for suite in suites_due(self._recipe, checkpoint)]
        _raise_for_failed(checkpoint, _all(stood.troubles for stood in stands))
        self._model = None
        done = [receipt for stood in stands for receipt in stood.done]
        given_up, not_owed = _all(stood.given_up for stood in stands), _all(stood.not_owed for stood in stands)
        return close_scores(self._recipe, self._layout, checkpoint, done, given_up, not_owed)

    def _score_suite(self, checkpoint: str, suite: str, only: str | None = None) -> Standing:
        """Try every open task of the suite (or the one) once; how the checkpoint stands then."""
        sweep(self._layout.task_scores(checkpoint, suite, ""))  # nobody else scores this checkpoint
        for task in standing(self._layout, self._place, checkpoint, suite).open:
            if only in (None, task.name):
                self._try(checkpoint, suite, task)
        return standing(self._layout, self._place, checkpoint, suite)

    def _try(self, checkpoint: str, suite: str, task: SuiteTask) -> None:
        export = read_receipt(self._layout.export(checkpoint)).digest
        model = self._scored_model(checkpoint, export)
        try:
            score_task(self._recipe, self._layout, checkpoint, model, self._loaded(suite, task), self._suite(suite))
        except Exception as error:  # the boundary: whatever a task or its data threw, the other tasks go on
            note_failure(self._layout, checkpoint, suite, task.name, export, error)

    def _scored_model(self, checkpoint: str, export: str) -> ScoredModel:
        """The checkpoint's model, kept until another is asked: its tasks come one by one."""
        if self._model is None or self._model[0] != export:
            self._model = None  # before the next is loaded: two need not fit
            self._model = export, load_scored_model(self._layout, checkpoint, self._tokenizer, self._device)
        return self._model[1]

    def _suite(self, suite: str) -> ScoringPlace:
        if suite not in self._suites:
            receipt = read_receipt(self._layout.suite(suite))
            self._suites[suite] = ScoringPlace(receipt, lay_desk(self._layout, self._place, suite))
        return self._suites[suite]

    def _loaded(self, suite: str, task: SuiteTask) -> LoadedTask:
        if (suite, task.name) not in self._tasks:
            place = self._suite(suite)
            check_data(place.suite, self._place, task)
            self._tasks[suite, task.name] = load_task(task, self._layout.suite(suite), place.desk)
        return self._tasks[suite, task.name]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self._layout.tokenizer)

    def _write_tokenizer(self, folder: Path) -> None:
        save_huggingface(self._tokenizer, folder)


def _all(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    return {name: why for part in parts for name, why in part.items()}


def _raise_for_failed(checkpoint: str, failed: dict[str, str]) -> None:
    if failed:
        reasons = "; ".join(f"{task}: {why}" for task, why in failed.items())
        raise TasksFailed(f"{checkpoint}: {len(failed)} tasks could not be scored: {reasons}")
