"""The tasks of the shipped suites: each is one unit of scoring, with a receipt of its own. Torch-free.

`k2_21` are the report's rows, most of them the harness's own tasks on data sets that the place's mirror holds. `k2_tiny` are task files
of ours on data made from held-out text, one of each kind that the 21 use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from k2.eval.benchmarks import BENCHMARKS

REPORT_SUITE = "k2_21"
PROMPT_GALLERY = "prompt_gallery"  # a task without a metric: its answers are for reading


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite. `files` is its folder among the harness's tasks; None: it lies in the suite. `shots` None: as its file says."""

    name: str
    files: str | None = None
    shots: int | None = None
    executes_code: bool = False
    data_set: str | None = None


class SuiteError(ValueError):
    """A suite that cannot be built or asked. The text is for the user."""


def shipped_suites() -> tuple[str, ...]:
    """Names of the suites that come with the package."""
    folder = resources.files("k2.eval") / "suites"
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))


def tasks_of(suite: str) -> tuple[SuiteTask, ...]:
    """The tasks of a shipped suite, in the order in which they are scored. `SuiteError` names the suites there are."""
    if suite == REPORT_SUITE:
        return tuple(SuiteTask(row.name, row.files, row.shots, row.executes_code, row.data_set) for row in BENCHMARKS)
    texts = task_files(suite)
    return tuple(SuiteTask(name, executes_code="\nunsafe_code: true" in texts[name]) for name in sorted(texts))


def task_files(suite: str) -> dict[str, str]:
    """The suite's own task files: name of the task, text."""
    if suite not in shipped_suites():
        raise SuiteError(f"evaluation.suite = {suite!r} is not one of the shipped suites: {', '.join(shipped_suites())}")
    return dict(_task_files(suite))


def _task_files(suite: str) -> Iterator[tuple[str, str]]:
    for file in (resources.files("k2.eval") / "suites" / suite).iterdir():
        if file.name.endswith(".yaml"):
            yield file.name.removesuffix(".yaml"), file.read_text("utf-8")
