"""Scores one exported checkpoint over the run's suite and commits the scores with every sample's output.

Enters: an export and a loaded suite. Leaves: `scores/<checkpoint>/` with `samples_<task>.jsonl` and a receipt that holds the scores, each
with stage, step, tokens, shots, metric, harness version and data digest. A checkpoint that is scored costs nothing again.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from k2.checkpoint.huggingface import still_of
from k2.eval.harness import HARNESS, LoadedSuite, ScoredModel, evaluate_suite
from k2.eval.scores import Score
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt, now, read_receipt, seal_folder
from k2.tokenizer import Tokenizer


@dataclass(frozen=True)
class SampleOutput:
    """What a checkpoint answered to one row of a task: a line of `samples_<task>.jsonl`. The row itself lies in the suite."""

    doc_id: int  # row of the task's data file, from 0
    document: str | None  # held-out document that the row was made from
    target: str
    responses: list[Any]  # [log-likelihood, greedy] of each option; the log-likelihood of a text; a generation
    metrics: dict[str, Any]
    prompt_hash: str
    doc_hash: str


def score_checkpoint(recipe: Recipe, layout: RunLayout, name: str, suite: LoadedSuite, tokenizer: Tokenizer) -> Receipt:
    """Score the exported checkpoint `name`, once; give back the receipt."""
    found = find_receipt(layout.scores(name))
    if found is not None:
        return still_of(found, find_receipt(layout.export(name)))
    export = read_receipt(layout.export(name))
    model = ScoredModel(load_exported(layout.export(name)), tokenizer, int(export.facts["context"]))
    results = evaluate_suite(model, suite)
    checkpoint = read_receipt(layout.checkpoint(name))
    receipt = Receipt(
        kind="scores",
        name=name,
        recipe=digest(recipe),
        made_at=now(),
        inputs={"export": export.digest, "suite": suite.receipt.digest},
        facts={
            "stage": export.facts["stage"],
            "step": checkpoint.facts["step"],
            "tokens": checkpoint.facts["tokens"],
            "suite": suite.receipt.name,
            "harness": HARNESS,
            "data": suite.receipt.digest,
            "scores": [score.model_dump() for score in scores_of(results)],
        },
    )
    with durable_folder(layout.scores(name)) as beside:
        for task, samples in sorted(results["samples"].items()):
            _write_samples(beside / f"samples_{task}.jsonl", samples)
        return seal_folder(beside, receipt)


def load_exported(folder: Path) -> Any:
    """The exported model on a CPU in float32, whatever it is stored in: faster there than bfloat16, and no less exact."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


def scores_of(results: dict[str, Any]) -> list[Score]:
    """lm-eval's results as scores: by task, then in the order of the task's metrics."""
    return [score for task in sorted(results["results"]) for score in _scores_of_task(results, task)]


def _scores_of_task(results: dict[str, Any], task: str) -> list[Score]:
    values = results["results"][task]
    found = []
    for key, value in values.items():
        metric, comma, chosen_filter = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        stderr = values.get(f"{metric}_stderr,{chosen_filter}")
        found.append(
            Score(
                task=task,
                shots=int(results["n-shot"][task] or 0),
                metric=metric if chosen_filter == "none" else key,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, float) else None,
                samples=int(results["n-samples"][task]["effective"]),
                higher_is_better=bool(results["higher_is_better"][task][metric]),
            )
        )
    return found


def _write_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    lines = [json.dumps(asdict(_sample(sample)), default=_plain, ensure_ascii=False) for sample in samples]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _sample(sample: dict[str, Any]) -> SampleOutput:
    return SampleOutput(
        doc_id=sample["doc_id"],
        document=sample["doc"].get("document"),
        target=str(sample["target"]),
        responses=sample["filtered_resps"],
        metrics={metric: sample[metric] for metric in sample["metrics"]},
        prompt_hash=sample["prompt_hash"],
        doc_hash=sample["doc_hash"],
    )


def _plain(value: Any) -> Any:
    """Numpy's numbers, which metrics are made of, as Python's."""
    return value.item()
