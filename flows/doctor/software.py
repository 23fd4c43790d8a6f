"""The libraries against their bounds, and the programs that only the system gives. Nothing is imported to learn its version."""

import platform
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import k2
from flows.doctor.check import Check, Patient, fails, fine, note
from k2.eval.jail import jail_missing
from k2.eval.tasks import SuiteError, tasks_of
from k2.recipe.place import Place

PROJECT = "k2-pipeline"
_OF_ENGINES = {"dask": "distributed", "ray": "ray"}


def check_software(patient: Patient) -> Iterator[Check]:
    """Libraries, jail, browser."""
    wanted = asked_for(bounds(Path(k2.__file__).parents[1] / "pyproject.toml"), patient.place)
    yield from judge_libraries(wanted, {one.name: installed(one.name) for one in wanted})
    yield judge_jail(patient, jail_missing())
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        yield note("browser", "no Chromium is here; only the tests of pages use one", "Debian: apt-get install chromium")


def judge_libraries(wanted: Sequence[Requirement], found: Mapping[str, str | None]) -> Iterator[Check]:
    """One line for all that are as they should be, and one for each that is not."""
    wrong = [one for one in wanted if not _satisfied(one, found[one.name])]
    for one in wrong:
        there = found[one.name] or "not installed"
        needed = f"{one.name}{one.specifier}"
        yield fails(f"library {one.name}", f"{there}; {PROJECT} needs {needed}", f"pip install '{needed}'")
    if not wrong:
        shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "deepspeed", "prefect") if found.get(name))
        yield fine("libraries", f"all {len(wanted)} within their bounds ({shown}), Python {platform.python_version()}")


def _satisfied(wanted: Requirement, found: str | None) -> bool:
    return found is not None and wanted.specifier.contains(found, prereleases=True)


def judge_jail(patient: Patient, missing: str | None) -> Check:
    """The jail counts where the place has programs of the model run; elsewhere it is only said."""
    if patient.place.run_generated_code:
        if missing is not None:
            return fails("jail", "run_generated_code = true of the place, and no jail works here", missing)
        return fine("jail", "bubblewrap works: programs that the model writes can be run")
    works = "none works here" if missing else "bubblewrap works"
    if idle := list(_programs(patient)):
        found = f"{works}, and the place does not have programs run that the model writes: {', '.join(idle)} will not be scored"
        return note("jail", found, "set run_generated_code = true in the place to have them scored" + (f"; {missing}" if missing else ""))
    return note("jail", f"{works}, and none is needed", missing) if missing else fine("jail", works)


def _programs(patient: Patient) -> Iterator[str]:
    """The recipe's tasks that run programs; a suite that is unknown is another check's."""
    for suite in () if patient.recipe is None else patient.recipe.evaluation.suites:
        try:
            yield from (task.name for task in tasks_of(suite) if task.executes_code)
        except SuiteError:
            continue


def bounds(pyproject: Path) -> list[Requirement]:
    """What the project requires: by its checkout, which may be newer than the installation made of it, or else as it was installed."""
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
        if project["name"] == PROJECT:
            extras = [f"{line}; extra == '{extra}'" for extra, lines in project["optional-dependencies"].items() for line in lines]
            return [Requirement(line) for line in (*project["dependencies"], *extras)]
    return [Requirement(line) for line in requires(PROJECT) or ()]


def asked_for(every: Sequence[Requirement], place: Place) -> list[Requirement]:
    """Those that each installation needs, and the one that the place's engine needs."""
    core = [one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})]
    engine = place.engine if place.engine in _OF_ENGINES else ""
    extra = [one for one in every if engine and one.name == _OF_ENGINES[engine] and one.marker and one.marker.evaluate({"extra": engine})]
    return [*core, *extra]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
