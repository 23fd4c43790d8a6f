"""What the recipe reads: its sources, its tokenizer, and the data of its suites."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.doctor.check import Check, Patient, fails, fine, note
from k2.data.document import DataError
from k2.data.sources import is_remote, list_source, refuse_forbidden
from k2.estimate import sized
from k2.eval.suite import mirror_of
from k2.eval.tasks import REPORT_SUITE, SuiteError, tasks_of
from k2.recipe.data import FilesSource, FileTokenizer
from k2.recipe.place import Place
from k2.recipe.schema import Recipe


@dataclass(frozen=True)
class Listed:
    """What was found of one subset's files. `trouble`: why they cannot be read; `asked`: no for what lies beyond this host."""

    subset: str
    pattern: str
    files: int = 0
    bytes: int = 0
    trouble: str | None = None
    asked: bool = True


def check_materials(patient: Patient) -> Iterator[Check]:
    """Nothing without a recipe."""
    if patient.recipe is None:
        return
    subsets = patient.recipe.data.subsets
    yield from judge_sources([list_files(one.name, one.source, patient.place) for one in subsets if isinstance(one.source, FilesSource)])
    gathered = [subset.name for subset in subsets if not isinstance(subset.source, FilesSource)]
    if gathered:
        yield fine("data", f"{', '.join(gathered)}: gathered from this Python installation")
    if isinstance(patient.recipe.tokenizer, FileTokenizer):
        yield check_tokenizer(patient.recipe.tokenizer, patient.place)
    yield from check_suites(patient.recipe, patient.place)


def judge_sources(listed: Sequence[Listed]) -> Iterator[Check]:
    """A line for the subsets that can be read, one for those that were not asked, one for those that cannot be had."""
    bad = [one for one in listed if one.trouble is not None]
    good = [one for one in listed if one.trouble is None and one.asked]
    distant = [one for one in listed if not one.asked]
    if good:
        size, count = sized(sum(one.bytes for one in good)), sum(one.files for one in good)
        yield fine("data", f"{', '.join(one.subset for one in good)}: {count} files, {size}")
    if distant:
        shown = ", ".join(one.pattern for one in distant)
        yield note("data beyond", f"{shown}: the place lets it be read; whether it is there was not asked")
    if bad:
        found = f"{len(bad)} of {len(listed)} subsets have no files that can be read: {', '.join(one.subset for one in bad)}"
        yield fails("data", found, f"{bad[0].trouble}{'; and so on' if len(bad) > 1 else ''}")


def list_files(subset: str, source: FilesSource, place: Place) -> Listed:
    """Whether the pattern names files, and they can be read. What lies at an address is not asked."""
    try:
        refuse_forbidden(source, place)
        if is_remote(source):
            return Listed(subset, source.pattern, asked=False)
        files = list_source(source, place)
    except (DataError, OSError) as error:
        return Listed(subset, source.pattern, trouble=str(error))
    shut = [file.name for file in files if not os.access(Path(place.data_dir) / file.name, os.R_OK)]
    trouble = f"{len(shut)} of its {len(files)} files may not be read by you, such as {shut[0]}: have that allowed" if shut else None
    return Listed(subset, source.pattern, len(files), sum(file.bytes for file in files), trouble)


def check_tokenizer(tokenizer: FileTokenizer, place: Place) -> Check:
    path = Path(place.data_dir) / tokenizer.path
    if not os.access(path, os.R_OK) or not path.is_file():
        hint = "put the sentencepiece model there, or set the place's data_dir to where it is: tokenizer.path is relative to it"
        return fails("tokenizer", f"{path.resolve()} is no file that can be read", hint)
    return fine("tokenizer", f"{path.resolve()}, {sized(path.stat().st_size)}")


def check_suites(recipe: Recipe, place: Place) -> Iterator[Check]:
    """Whether every suite is known and has its data."""
    for suite in recipe.evaluation.suites:
        name = f"suite {suite}"
        try:
            tasks = len(tasks_of(suite))
            if suite == REPORT_SUITE:
                yield fine(name, f"{tasks} tasks; {mirror_of(place)} holds their data sets")
                continue
        except SuiteError as error:
            yield fails(name, "cannot be built", str(error))
            continue
        if recipe.data.held_out == 0:
            found = "its questions are made of held-out documents, and data.held_out = 0 keeps none"
            yield note(name, found, "set it above 0, unless chunks are imported together with held-out documents")
        else:
            yield fine(name, f"{tasks} tasks, made of the {recipe.data.held_out:.2%} of the documents that are held out")
