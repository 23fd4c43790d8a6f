"""What checkpoints answer, row by row, as files that people and galleries read. Torch-free.

`samples.jsonl` lies beside a task's scores, a line a row and filter; `questions.jsonl` is written once for all checkpoints, as prompts are
long and always the same. A line of one finds its line of the other by task and `doc_id`, and both carry the prompt's hash.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SAMPLES, QUESTIONS = "samples.jsonl", "questions.jsonl"


@dataclass(frozen=True)
class SampleOutput:
    """What a checkpoint answered to one row of a task: a line of `samples.jsonl`. `prompt_hash` finds the question."""

    task: str  # of a group, the leaf
    doc_id: int  # row of the leaf's data, from 0
    document: str | None  # held-out document that the row was made from
    target: str
    responses: list[Any]  # [log-likelihood, greedy] of each option; the log-likelihood of a text; generations
    metrics: dict[str, Any]
    filter: str
    prompt_hash: str
    doc_hash: str


@dataclass(frozen=True)
class AskedQuestion:
    """What one row asks, few-shot examples and all: a line of `questions.jsonl`. The same for every checkpoint."""

    task: str
    doc_id: int
    prompt: str
    options: list[str]
    target: str
    prompt_hash: str


def questions_of(samples: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[AskedQuestion]:
    """The question of each row, once, however many filters read its answers. `samples` are lm-eval's, each with the leaf it is of."""
    seen = set()
    for leaf, sample in samples:
        if (leaf, sample["doc_id"]) not in seen:
            seen.add((leaf, sample["doc_id"]))
            arguments = sample["arguments"]
            options = [a[1] for a in arguments if len(a) > 1 and isinstance(a[1], str)]
            yield AskedQuestion(leaf, sample["doc_id"], str(arguments[0][0]), options, str(sample["target"]), sample["prompt_hash"])


def sample_output(leaf: str, sample: dict[str, Any]) -> SampleOutput:
    """One of lm-eval's samples."""
    return SampleOutput(
        task=leaf,
        doc_id=sample["doc_id"],
        document=sample["doc"].get("document"),
        target=str(sample["target"]),
        responses=sample["filtered_resps"],
        metrics={metric: sample[metric] for metric in sample["metrics"]},
        filter=sample["filter"],
        prompt_hash=sample["prompt_hash"],
        doc_hash=sample["doc_hash"],
    )


def write_lines(path: Path, lines: Iterable[SampleOutput] | Iterable[AskedQuestion]) -> None:
    """One JSON object a line."""
    path.write_text("".join(f"{json.dumps(asdict(line), default=_plain, ensure_ascii=False)}\n" for line in lines), "utf-8")


def _plain(value: Any) -> Any:
    """Numpy's numbers, which metrics are made of, as Python's."""
    return value.item()
