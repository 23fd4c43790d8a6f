"""Builds the galleries as a static site that works from `file://`: K2's evaluation and prompt galleries (K2 §6.3).

Enters what checkpoints answered (`scores/<checkpoint>/samples_<task>.jsonl`) and what was asked (`questions/`); leaves
`report/gallery/`: one page, an index of tasks and checkpoints, and for each task and checkpoint one small file
that the page loads when somebody looks (`<metric>/<shots>/<checkpoint>/<task>.js`). Only this site's own scripts run.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from k2.recipe.schema import Recipe
from k2.run.durable import write_durably
from k2.run.holdings import HeldCheckpoint, held_checkpoints
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, find_receipt

QUESTIONS = "questions.jsonl"
_WORDS = """# Galleries of {run}

Open `index.html`: what every checkpoint answered, two side by side, and the same prompts along the training. For programs:

- `<metric>/<shots>/<checkpoint>/<task>.js`: a checkpoint's answers, a row and filter each: the log-likelihood of every option, or what
  was generated, and the metrics of the row
- `prompts/0/<checkpoint>/<task>.js`: what was written on from the fixed prompts
- `questions/<task>.js`: what was asked, the same for all checkpoints; `task` and `doc_id` lead from an answer to its question
- `index.js`: the checkpoints, the tasks and their scores

Each file is one call, `gallery.take(key, value)`, as a page that is read from a disk can load scripts and nothing else; `value` is JSON.
The same answers are `scores/samples_<task>.jsonl` of each published checkpoint.
"""
READ_ONLY = "bypass"  # lm-eval's metric of a task that is only read: the prompt gallery


@dataclass(frozen=True)
class ShownTask:
    """One task of the gallery. `scores` are by checkpoint; a task that is only read has none."""

    task: str
    suite: str
    shots: int
    metric: str
    higher_is_better: bool
    folder: str  # <metric>/<shots>
    scores: Mapping[str, float]


def add_to_gallery(recipe: Recipe, layout: RunLayout, checkpoint: str) -> Path:
    """Put one scored checkpoint into the gallery, and write its page and index anew. Gives the page's path."""
    receipt = find_receipt(layout.scores(checkpoint))
    if receipt is not None:
        for task in _tasks_of(layout, receipt).values():
            _write_answers(layout, receipt, task)
            _write_questions(layout, task)
    return write_index(recipe, layout)


def files_of(layout: RunLayout, checkpoint: str) -> list[Path]:
    """The checkpoint's answers in the gallery, and the questions that they answer; none where it has no scores."""
    receipt = find_receipt(layout.scores(checkpoint))
    tasks = () if receipt is None else _tasks_of(layout, receipt).values()
    return [path for task in tasks for path in (_answers_file(layout, checkpoint, task), _questions_file(layout, task))]


def write_index(recipe: Recipe, layout: RunLayout) -> Path:
    """The page, and the index of what is there to be read: a scored checkpoint whose answers are not here yet comes with them."""
    scored = [
        (held, receipt)
        for held in held_checkpoints(recipe, layout)
        if (receipt := find_receipt(layout.scores(held.name))) and all(path.is_file() for path in files_of(layout, held.name))
    ]
    tasks = _merged(_tasks_of(layout, receipt) for _, receipt in scored)
    index = {
        "run": layout.name,
        "recipe": recipe.name,
        "checkpoints": [_point(held) for held, _ in scored],
        "tasks": [asdict(task) for task in tasks],
    }
    _write_script(layout.gallery / "index.js", "index", index)
    write_durably(layout.gallery / "README.md", _WORDS.format(run=layout.name).encode())
    write_durably(layout.gallery / "index.html", _page(layout.name).encode())
    return layout.gallery / "index.html"


def _point(held: HeldCheckpoint) -> dict[str, Any]:
    return {"name": held.name, "stage": held.stage, "step": held.step, "tokens": held.tokens}


def _tasks_of(layout: RunLayout, receipt: Receipt) -> dict[str, ShownTask]:
    """The tasks that one checkpoint answered, by name; a task with several metrics goes by its first."""
    shown: dict[str, ShownTask] = {}
    suites = {name: _suite_of(layout, receipt, name) for name in receipt.facts["tasks"]}
    for score in receipt.facts["scores"]:
        name = score["task"]
        if name not in shown:
            scores = {receipt.name: score["value"]}
            folder = f"{score['metric'].replace(',', '-').replace('@', '-at-')}/{score['shots']}"
            shown[name] = ShownTask(name, suites[name], score["shots"], score["metric"], score["higher_is_better"], folder, scores)
    for name in sorted(suites.keys() - shown.keys()):  # only read, never scored
        shown[name] = ShownTask(name, suites[name], 0, READ_ONLY, True, "prompts/0", {})
    return shown


def _suite_of(layout: RunLayout, receipt: Receipt, task: str) -> str:
    """The suite whose questions the task's are."""
    suites: list[str] = receipt.facts["suites"]
    return next((suite for suite in suites if layout.questions(suite, task).is_dir()), suites[0])


def _merged(of_checkpoints: Iterable[Mapping[str, ShownTask]]) -> list[ShownTask]:
    """Each task once, with the scores of all checkpoints; those that are only read come last."""
    merged: dict[str, ShownTask] = {}
    for tasks in of_checkpoints:
        for name, task in tasks.items():
            earlier = merged[name].scores if name in merged else {}
            merged[name] = ShownTask(**{**asdict(task), "scores": {**earlier, **task.scores}})
    return sorted(merged.values(), key=lambda task: task.metric == READ_ONLY)


def _write_answers(layout: RunLayout, receipt: Receipt, task: ShownTask) -> None:
    """A checkpoint's answers to one task, as the page reads them: a list a filter and row."""
    rows = _lines(layout.scores(receipt.name) / f"samples_{task.task}.jsonl")
    answers = [{key: row[key] for key in ("task", "doc_id", "responses", "metrics", "filter")} for row in rows]
    _write_script(_answers_file(layout, receipt.name, task), f"{receipt.name}/{task.task}", answers)


def _write_questions(layout: RunLayout, task: ShownTask) -> None:
    target = _questions_file(layout, task)
    source = layout.questions(task.suite, task.task) / QUESTIONS
    if not target.exists():
        _write_script(target, f"questions/{task.task}", _lines(source))


def _answers_file(layout: RunLayout, checkpoint: str, task: ShownTask) -> Path:
    return layout.gallery / task.folder / checkpoint / f"{task.task}.js"


def _questions_file(layout: RunLayout, task: ShownTask) -> Path:
    return layout.gallery / "questions" / f"{task.task}.js"


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write_script(path: Path, key: str, value: object) -> None:
    """A file that hands its value to the page. From `file://` a page may load scripts and nothing else."""
    content = json.dumps(value, separators=(",", ":"), allow_nan=True).replace("<", "\\u003c")
    write_durably(path, f"gallery.take({json.dumps(key)},{content})\n".encode())


def _page(run: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("k2.report.gallery", "."), autoescape=True, undefined=StrictUndefined)
    script, palette = _resource("gallery.js"), (resources.files("k2.report") / "palette.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("gallery.html.j2").render(
        run=run, style=palette + _resource("gallery.css"), script=script, script_digest=digest
    )


def _resource(name: str) -> str:
    return (resources.files("k2.report.gallery") / name).read_text("utf-8").strip()
