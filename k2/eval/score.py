"""Scores one exported checkpoint on one task, and closes a checkpoint's scores when every task that it is owed is done.

Enters: an export and a loaded task. Leaves: `task_scores/<checkpoint>/<suite>/<task>/` with every sample's answer and a receipt that holds
the scores; `questions/<suite>/<task>/` with what was asked, once for all checkpoints; at last `scores/<checkpoint>/` with the scores and
answers of all tasks together. Every score belongs to a stage, step, tokens, number of shots, metric, harness version and data digest.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from k2.eval.answers import QUESTIONS, SAMPLES, questions_of, sample_output, write_lines
from k2.eval.harness import HARNESS, LoadedTask, ScoredModel, evaluate_task
from k2.eval.scores import Score
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, read_receipt, seal_folder
from k2.tokenizer import Tokenizer

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class ScoringPlace:
    """What a task's scores rest on: the suite's receipt, and the folder in which the task finds its data."""

    suite: Receipt
    desk: Path

    def data_digest(self, task: LoadedTask) -> str:
        """The digest that names the task's data."""
        return str(self.suite.facts["data"][task.task.data_set]) if task.task.data_set else self.suite.digest


def load_scored_model(layout: RunLayout, name: str, tokenizer: Tokenizer, device: Device = "cpu") -> ScoredModel:
    """The exported checkpoint, ready to be asked."""
    export = read_receipt(layout.export(name))
    return ScoredModel(load_exported(layout.export(name), device), tokenizer, int(export.facts["context"]))


def load_exported(folder: Path, device: Device = "cpu") -> Any:
    """The exported model: on a CPU in float32, whatever it is stored in, which is faster there than bfloat16 and no less exact; on a CUDA
    device as it is stored. `ValueError` where there is no such device."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the place names cuda among its evaluator_devices, and no CUDA device is to be seen here: name cpu")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32 if device == "cpu" else "auto", attn_implementation="sdpa")
    return model.to(device).eval()


def score_task(recipe: Recipe, layout: RunLayout, name: str, model: ScoredModel, task: LoadedTask, place: ScoringPlace) -> Receipt:
    """Score the checkpoint `name` on one task; give back the receipt."""
    export, checkpoint = read_receipt(layout.export(name)), read_receipt(layout.checkpoint(name))
    results = evaluate_task(model, task, place.desk)
    samples = [(leaf, sample) for leaf in sorted(results["samples"]) for sample in results["samples"][leaf]]
    _keep_questions(recipe, layout, task, place, samples)
    receipt = Receipt(
        kind="task_scores",
        name=name,
        recipe=digest(recipe),
        made_at=now(),
        inputs={"export": export.digest, "suite": place.suite.digest},
        facts={
            "stage": export.facts["stage"],
            "step": checkpoint.facts["step"],
            "tokens": checkpoint.facts["tokens"],
            "suite": place.suite.name,
            "task": task.task.name,
            "scores": [score.model_dump() for score in scores_of(results, task, place.data_digest(task))],
            "parts": _parts(results, task),
        },
    )
    with durable_folder(layout.task_scores(name, place.suite.name, task.task.name)) as beside:
        write_lines(beside / SAMPLES, (sample_output(leaf, sample) for leaf, sample in samples))
        return seal_folder(beside, receipt)


def close_scores(
    recipe: Recipe, layout: RunLayout, name: str, done: list[Receipt], failed: Mapping[str, str], not_owed: Mapping[str, str]
) -> Receipt:
    """Everything that the checkpoint is owed is scored, or marked: its scores and answers in one folder, under one receipt."""
    export, checkpoint = read_receipt(layout.export(name)), read_receipt(layout.checkpoint(name))
    receipt = Receipt(
        kind="scores",
        name=name,
        recipe=digest(recipe),
        made_at=now(),
        inputs={"export": export.digest} | {task.facts["suite"]: task.inputs["suite"] for task in done},
        facts={
            "stage": export.facts["stage"],
            "step": checkpoint.facts["step"],
            "tokens": checkpoint.facts["tokens"],
            "suite": recipe.evaluation.suite,
            "suites": sorted({task.facts["suite"] for task in done}),
            "tasks": {task.facts["task"]: task.digest for task in done},
            "harness": HARNESS,
            "scores": [score for task in done for score in task.facts["scores"]],
            "failed": dict(failed),
            "not_owed": dict(not_owed),
        },
    )
    with durable_folder(layout.scores(name)) as beside:
        for task in done:
            suite, unit = task.facts["suite"], task.facts["task"]
            os.link(layout.task_scores(name, suite, unit) / SAMPLES, beside / f"samples_{unit}.jsonl")
        return seal_folder(beside, receipt)


def scores_of(results: dict[str, Any], task: LoadedTask, data: str) -> list[Score]:
    """lm-eval's results as scores, in the order of the task's metrics. A task that is for reading alone has none."""
    name, values = task.task.name, results["results"][task.task.name]
    shots = max(int(results["n-shot"].get(leaf) or 0) for leaf in task.leaves)
    samples = sum(int(results["n-samples"][leaf]["effective"]) for leaf in task.leaves)
    better = results["higher_is_better"].get(name) or results["higher_is_better"][next(iter(task.leaves))]
    return [
        Score(
            task=name,
            shots=shots,
            metric=metric if chosen_filter == "none" else f"{metric},{chosen_filter}",
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, float) else None,
            samples=samples,
            higher_is_better=bool(better[metric]),
            harness=HARNESS,
            data=data,
        )
        for metric, chosen_filter, value, stderr in _metrics(values)
    ]


def _metrics(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Metric, filter, value and standard error."""
    for key, value in values.items():
        metric, comma, chosen_filter = key.partition(",")
        if comma and not metric.endswith("_stderr") and metric != "bypass":
            yield metric, chosen_filter, value, values.get(f"{metric}_stderr,{chosen_filter}")


def _parts(results: dict[str, Any], task: LoadedTask) -> dict[str, dict[str, float]]:
    """The metrics of a group's leaves; none for a task that is one."""
    leaves = sorted(leaf for leaf in task.leaves if leaf != task.task.name)
    return {leaf: {f"{m},{f}": float(value) for m, f, value, _ in _metrics(results["results"][leaf])} for leaf in leaves}


def _keep_questions(
    recipe: Recipe, layout: RunLayout, task: LoadedTask, place: ScoringPlace, samples: list[tuple[str, dict[str, Any]]]
) -> None:
    """Write what the task asks beside the scores, once: prompts are long, and the same for every checkpoint."""
    folder = layout.questions(place.suite.name, task.task.name)
    if find_receipt(folder) is not None:
        return
    inputs, facts = {"suite": place.suite.digest}, {"suite": place.suite.name, "task": task.task.name}
    receipt = Receipt(kind="questions", name=task.task.name, recipe=digest(recipe), made_at=now(), inputs=inputs, facts=facts)
    with suppress(FileExistsError), durable_folder(folder) as beside:  # another evaluator may have asked the same meanwhile
        write_lines(beside / QUESTIONS, questions_of(samples))
        seal_folder(beside, receipt)
