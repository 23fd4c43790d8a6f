"""Builds a run's evaluation suite: lm-eval task files beside the data they ask, under one receipt.

Enters: the run's held-out documents, or a mirror of the benchmarks' data sets. Leaves: `suites/<suite>/` with `*.yaml` (shipped with the
package, unchanged), the `*.jsonl` of a suite that brings its data, and a receipt that names the data of every task. Torch-free: preparing
data must not load it.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from k2.eval.held_out import HeldOutDocument, Question, identifier_questions, names_used, passages, row, sums, swapped_words
from k2.eval.mirror import data_digest, missing_in
from k2.eval.tasks import REPORT_SUITE, SuiteError, task_files, tasks_of
from k2.recipe.load import digest
from k2.recipe.place import Place
from k2.recipe.schema import Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, digest_file, find_receipt, now, seal_folder

# so few that a checkpoint of k2_tiny costs about a CPU-second
_IDENTIFIER_QUESTIONS = 100
_PASSAGES = 32
_SUMS = 40
_SHOTS = 3
_NAME_QUESTIONS = 24
_PAIRS = 32


def build_suites(recipe: Recipe, place: Place, layout: RunLayout) -> None:
    """Build every suite of the recipe, each once."""
    for suite in recipe.evaluation.suites:
        build_suite(recipe, place, layout, suite)


def build_suite(recipe: Recipe, place: Place, layout: RunLayout, suite: str) -> Receipt:
    """Build the suite into the run directory, once; give back its receipt. `SuiteError` where its data is missing."""
    folder = layout.suite(suite)
    found = find_receipt(folder)
    if found is not None:
        return found
    texts = task_files(suite)
    mirrored = _mirrored(place) if suite == REPORT_SUITE else {}
    data = {} if suite == REPORT_SUITE else _data(read_held_out(layout.held_out))
    receipt = Receipt(
        kind="suite",
        name=suite,
        recipe=digest(recipe),
        made_at=now(),
        inputs={} if suite == REPORT_SUITE else {"held_out": digest_file(layout.held_out)},
        facts={
            "tasks": sorted(task.name for task in tasks_of(suite)),
            "data": mirrored,
            "rows": {name: len(rows) for name, rows in data.items()},
        },
    )
    with durable_folder(folder) as beside:
        for name, text in texts.items():
            (beside / f"{name}.yaml").write_text(text, "utf-8")
        for path in _shipped_data(suite):
            (beside / path.name).write_bytes(path.read_bytes())
        for name, rows in data.items():
            _write_rows(beside / f"{name}.jsonl", rows)
        return seal_folder(beside, receipt)


def read_held_out(path: Path) -> list[HeldOutDocument]:
    """The held-out documents. `SuiteError` when there are none."""
    if not path.is_file():
        raise SuiteError(
            f"{path} does not exist: a suite is made from held-out documents; set data.held_out above 0 and prepare the data first"
        )
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [HeldOutDocument(str(r["id"]), str(r["subset"]), str(r["text"])) for r in rows]


def mirror_of(place: Place) -> Path:
    """The place's folder of the report's data sets, every one there. `SuiteError` names what is missing and how to get it."""
    how = "fill a folder with `k2 eval fetch --to DIR` and name it as benchmarks_dir in the place"
    if place.benchmarks_dir is None:
        raise SuiteError(f"the suite {REPORT_SUITE} asks published data sets, and the place names no folder that holds them: {how}")
    mirror = Path(place.benchmarks_dir)
    missing = missing_in(mirror)
    if missing:
        raise SuiteError(f"{mirror} lacks {len(missing)} data sets of the suite {REPORT_SUITE}: {', '.join(missing)}; {how}")
    return mirror


def _mirrored(place: Place) -> dict[str, str]:
    """The digest of every data set of the mirror, by name."""
    mirror = mirror_of(place)
    names = {task.data_set for task in tasks_of(REPORT_SUITE) if task.data_set}
    return {name: data_digest(mirror, name) for name in sorted(names)}


def _shipped_data(suite: str) -> list[Any]:
    """The data files that the suite ships as they are."""
    return [file for file in (resources.files("k2.eval") / "suites" / suite).iterdir() if file.name.endswith(".jsonl")]


def _data(documents: list[HeldOutDocument]) -> Mapping[str, list[Question]]:
    """The rows of every data file that is made from held-out text."""
    additions = sums(_SUMS + _SHOTS)
    data: dict[str, list[Question]] = {
        "next_identifier": list(identifier_questions(documents, _IDENTIFIER_QUESTIONS)),
        "names_used": list(names_used(documents, _NAME_QUESTIONS)),
        "bits_per_byte": list(passages(documents, _PASSAGES)),
        "swapped_words": list(swapped_words(documents, _PAIRS)),
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
