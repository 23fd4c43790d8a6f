"""A run whose checkpoints answered three tasks: options by log-likelihood, generations that try to break out, prompts to read."""

import json
import random

from synthetic_run import Writer

from k2.run.layout import checkpoint_name
from k2.run.receipt import Receipt, seal_folder

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u2028{{7*7}}"
TASKS = {"choice": ("acc_norm", 10, True), "writing": ("exact_match", 3, True), "stereotypes": ("pct_stereotype", 0, False)}
ROWS = 130  # more than one page
WHITE_ROW = 7  # answered with white space where an answer is written


def answer_everything(writer: Writer, checkpoints: int) -> list[str]:
    """Questions once, and for each checkpoint its answers and scores; later checkpoints choose better. The checkpoints' names."""
    for task in (*TASKS, "prompt_gallery"):
        folder = writer.layout.questions("k2_tiny", task)
        folder.mkdir(parents=True)
        lines = [json.dumps(_question(task, row)) + "\n" for row in range(3 if task == "prompt_gallery" else ROWS)]
        (folder / "questions.jsonl").write_text("".join(lines))
        seal_folder(folder, Receipt(kind="questions", name=task, recipe="0" * 64, made_at="2026-01-01T00:00:00.000+00:00"))
    for number in range(1, checkpoints + 1):
        where = {"kind": "chunk", "stage": "stage1", "step": 40 * number, "tokens": 5120 * number, "attempt": 1}
        writer.receipt(writer.layout.checkpoint(checkpoint_name(number)), "checkpoint", where)
        _answer(writer, number, 0.3 + 0.6 * number / checkpoints, random.Random(number))
    return [checkpoint_name(number) for number in range(1, checkpoints + 1)]


def _question(task: str, row: int) -> dict[str, object]:
    options = [" a river", " a mountain", f" {EVIL}"] if task in {"choice", "stereotypes"} else []
    prompt = f"Q: what is number {row}?\nA:" if task != "prompt_gallery" else f"Once upon a time, prompt {row}"
    target = "1" if options else str(row)
    return {"task": task, "doc_id": row, "prompt": prompt, "options": options, "target": target, "prompt_hash": f"p{row}"}


def _answer(writer: Writer, number: int, share_right: float, chance: random.Random) -> None:
    name = checkpoint_name(number)
    folder = writer.layout.scores(name)
    folder.mkdir(parents=True)
    scores = []
    for task, (metric, shots, higher) in TASKS.items():
        right = [chance.random() < share_right for _ in range(ROWS)]
        lines = (json.dumps(_sample(task, metric, row, good, name)) + "\n" for row, good in enumerate(right))
        (folder / f"samples_{task}.jsonl").write_text("".join(lines))
        value = sum(right) / ROWS
        scores.append(
            {"task": task, "shots": shots, "metric": metric, "value": value, "stderr": 0.04, "samples": ROWS, "higher_is_better": higher}
        )
    prompts = (json.dumps(_sample("prompt_gallery", "bypass", row, True, name)) + "\n" for row in range(3))
    (folder / "samples_prompt_gallery.jsonl").write_text("".join(prompts))
    where = {"stage": "stage1", "step": 40 * number, "tokens": 5120 * number}
    facts = {**where, "suite": "k2_tiny", "suites": ["k2_tiny"], "harness": "0.4.13", "data": "0", "scores": scores}
    facts["tasks"] = dict.fromkeys((*TASKS, "prompt_gallery"), "0" * 64)
    seal_folder(folder, Receipt(kind="scores", name=name, recipe="0" * 64, made_at="2026-01-01T00:00:00.000+00:00", facts=facts))


def _sample(task: str, metric: str, row: int, good: bool, name: str) -> dict[str, object]:
    if task in {"choice", "stereotypes"}:
        responses: list[object] = [[-3.0, False], [-2.0 if good else -9.0, good], [-4.0, False]]
    else:
        responses = [f"{name} says {EVIL}" if row != WHITE_ROW else "\n" * 40]
    return {
        "task": task,
        "doc_id": row,
        "document": None,
        "target": "1",
        "responses": responses,
        "metrics": {metric: float(good)},
        "filter": "none",
        "prompt_hash": f"p{row}",
        "doc_hash": f"d{row}",
    }
