"""The duties that need a model: exporting a checkpoint and scoring it. One evaluator lives across a run's checkpoints.

Enters: a run directory with its tokenizer and suite. Leaves: receipts of exports and scores. What all checkpoints share, the
libraries, the tokenizer and the tasks, is loaded once.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Literal, assert_never

from k2.checkpoint.huggingface import export_checkpoint
from k2.eval.harness import LoadedSuite, load_suite
from k2.eval.score import score_checkpoint
from k2.eval.window import LOSSES, ROWS, row_losses
from k2.recipe.schema import Recipe
from k2.run.durable import write_durably
from k2.run.layout import KeptLayout, RunLayout
from k2.run.receipt import Receipt
from k2.tokenizer import Tokenizer, save_huggingface

EvaluatorDuty = Literal["exported", "evaluated"]


class Evaluator:
    """Exports and scores the checkpoints of one run."""

    def __init__(self, recipe: Recipe, layout: RunLayout) -> None:
        self._recipe, self._layout = recipe, layout

    def warm_up(self) -> None:
        """Load what every checkpoint needs, as far as it is prepared."""
        from transformers.models.llama import modeling_llama  # noqa: F401

        if self._layout.suite(self._recipe.evaluation.suite).is_dir():
            _ = self._suite, self._tokenizer

    def settle(self, checkpoint: str, duty: EvaluatorDuty) -> Receipt:
        """Do the duty, once; give back its receipt."""
        match duty:
            case "exported":
                return export_checkpoint(self._recipe, self._layout, checkpoint, self._write_tokenizer)
            case "evaluated":
                return score_checkpoint(self._recipe, self._layout, checkpoint, self._suite, self._tokenizer)
        assert_never(duty)

    def settle_kept(self, layout: KeptLayout, checkpoint: str, duty: Literal["exported", "window"]) -> Path:
        """Export a checkpoint that an incident keeps, or score the incident's rows with it; the folder that holds the answer."""
        export_checkpoint(self._recipe, layout, checkpoint, self._write_tokenizer)
        if duty == "exported":
            return layout.export(checkpoint)
        losses = row_losses(layout.export(checkpoint), layout.window / ROWS)
        write_durably(layout.window / LOSSES, json.dumps(losses).encode())
        return layout.window

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self._layout.tokenizer)

    @cached_property
    def _suite(self) -> LoadedSuite:
        return load_suite(self._layout.suite(self._recipe.evaluation.suite))

    def _write_tokenizer(self, folder: Path) -> None:
        save_huggingface(self._tokenizer, folder)
