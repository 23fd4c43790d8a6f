"""Builds a run's evaluation suite: lm-eval task files beside the data they ask, under one receipt.

Enters: the run's held-out documents. Leaves: `suites/<suite>/` with `*.yaml` (shipped with the package, unchanged), `*.jsonl`
and a receipt whose digest names the data in every score. Torch-free: preparing data must not load it.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from k2.eval.held_out import HeldOutDocument, Question, identifier_questions, passages, row, sums
from k2.recipe.load import digest
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, digest_file, find_receipt, now, seal_folder

# so few that a checkpoint of k2_tiny costs less than a CPU-second
_IDENTIFIER_QUESTIONS = 100
_PASSAGES = 32
_SUMS = 40
_SHOTS = 3


class SuiteError(ValueError):
    """A suite that cannot be built. The text is for the user."""


def build_suite(recipe: Recipe, layout: RunLayout) -> Receipt:
    """Build the recipe's suite into the run directory, once; give back its receipt."""
    suite = recipe.evaluation.suite
    folder = layout.suite(suite)
    found = find_receipt(folder)
    if found is not None:
        return found
    task_files = _task_files(suite)
    data = _data(read_held_out(layout.held_out))
    receipt = Receipt(
        kind="suite",
        name=suite,
        recipe=digest(recipe),
        made_at=now(),
        inputs={"held_out": digest_file(layout.held_out)},
        facts={"tasks": sorted(task_files), "rows": {name: len(rows) for name, rows in data.items()}},
    )
    with durable_folder(folder) as beside:
        for name, text in task_files.items():
            (beside / f"{name}.yaml").write_text(text, "utf-8")
        for name, rows in data.items():
            _write_rows(beside / f"{name}.jsonl", rows)
        return seal_folder(beside, receipt)


def shipped_suites() -> tuple[str, ...]:
    """Names of the suites that come with the package."""
    folder = resources.files("k2.eval") / "suites"
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))


def read_held_out(path: Path) -> list[HeldOutDocument]:
    """The held-out documents. `SuiteError` when there are none."""
    if not path.is_file():
        raise SuiteError(
            f"{path} does not exist: a suite is made from held-out documents; set data.held_out above 0 and prepare the data first"
        )
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [HeldOutDocument(str(r["id"]), str(r["subset"]), str(r["text"])) for r in rows]


def _task_files(suite: str) -> dict[str, str]:
    if suite not in shipped_suites():
        raise SuiteError(f"evaluation.suite = {suite!r} is not one of the shipped suites: {', '.join(shipped_suites())}")
    folder = resources.files("k2.eval") / "suites" / suite
    return {f.name.removesuffix(".yaml"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".yaml")}


def _data(documents: list[HeldOutDocument]) -> Mapping[str, list[Question]]:
    """The rows of every data file."""
    additions = sums(_SUMS + _SHOTS)
    data: dict[str, list[Question]] = {
        "next_identifier": list(identifier_questions(documents, _IDENTIFIER_QUESTIONS)),
        "bits_per_byte": list(passages(documents, _PASSAGES)),
        "addition": list(additions[_SHOTS:]),
        "addition_shots": list(additions[:_SHOTS]),
    }
    for name, rows in data.items():
        if not rows:
            raise SuiteError(
                f"the {len(documents)} held-out documents yield no row for the task {name!r} (it needs Python code of some lines, or text "
                "of 64 characters): raise data.held_out, or add such documents"
            )
    return data


def _write_rows(path: Path, rows: Iterable[Question]) -> None:
    path.write_text("".join(json.dumps(row(r), ensure_ascii=False) + "\n" for r in rows), "utf-8")
