"""Running: start, go on, look, stop, answer."""

import sys
import time
from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext, suppress

from flows.commands.answering import answer, layout_of, say, show_lines
from k2.recipe.load import load_place, load_recipe, shipped_recipes
from k2.run.layout import RunLayout
from k2.run.opening import existing_runs, open_run
from k2.run.status import Status, read_status


def run(arguments: Namespace) -> int:
    """k2 run"""
    from flows.driving import drive_new

    layout = layout_of(arguments)
    load_recipe(arguments.recipe, tuple(arguments.overrides))  # a bad recipe fails before a server starts
    with _ui(arguments):
        code = drive_new(layout, arguments.recipe, tuple(arguments.overrides), arguments.place, say)
    return _conclude(arguments, layout, code)


def resume(arguments: Namespace) -> int:
    """k2 resume"""
    from flows.driving import drive_existing
    from k2.run.lease import hold
    from k2.run.opening import change_world, create_or_open

    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    place = load_place(arguments.place) if arguments.place else None
    if place is not None or arguments.world is not None:
        with hold(layout):
            create_or_open(layout, recipe, place)
            if arguments.world is not None:
                change_world(layout, arguments.world)
    with _ui(arguments):
        code = drive_existing(layout, say)
    return _conclude(arguments, layout, code)


def join(arguments: Namespace) -> int:
    """k2 join"""
    from k2.launch.joining import find_run, join_run

    layout = layout_of(arguments)
    find_run(layout, arguments.node, say)
    join_run(layout, arguments.node, say)
    say(f"{layout.name} is done")
    return 0


def status(arguments: Namespace) -> int:
    """k2 status"""
    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    _show_status(arguments, read_status(recipe, layout))
    return 0


def stop(arguments: Namespace) -> int:
    """k2 stop"""
    from k2.run.control import request_stop
    from k2.run.lease import is_held
    from k2.run.ledger import last_attempt, read_facts

    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    if is_held(layout):
        request_stop(layout, last_attempt(read_facts(layout.ledger)), "user")
        say(f"asked {layout.name} to stop: the trainer finishes its step and saves")
        _wait_until_free(layout)
    _show_status(arguments, read_status(recipe, layout))
    if is_held(layout):
        raise RuntimeError(f"{layout.name} is still finishing its step and saving; it will stop. Look again with `k2 status {layout.name}`")
    return 0


def decide(arguments: Namespace) -> int:
    """k2 decide"""
    from flows.deciding import decide_incident, wake

    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    decide_incident(layout, arguments.incident, arguments.action, arguments.to, arguments.data, "user")
    woken = wake(layout)
    incident = read_status(recipe, layout).incidents[arguments.incident - 1]
    further = "its flow run goes on" if woken else f"go on with `k2 resume {layout.name}`"
    asked = f" (it was asked because {incident['why_asked']})" if incident["why_asked"] else ""
    answer(arguments, incident, f"incident {arguments.incident} is answered: {arguments.action}{asked}; {further}")
    return 0


def runs(arguments: Namespace) -> int:
    """k2 runs"""
    found = [read_status(open_run(layout)[0], layout) for layout in existing_runs(arguments.runs_dir)]
    if arguments.json:
        show_lines(found)
        return 0
    for one in found:
        print(f"{one.run:30} {one.state:10} {one.stage or '-':8} step {one.step:>8}  {one.tokens:>15,} tokens")
    if not found:
        print(f"no runs in {arguments.runs_dir}; start one with `k2 run {shipped_recipes()[-1]} --run first`")
    return 0


def logs(arguments: Namespace) -> int:
    """k2 logs"""
    layout = layout_of(arguments)
    open_run(layout)
    newest = max(layout.logs.glob("trainer_attempt_*.log"), default=None)
    if newest is None:
        raise ValueError(f"run {layout.name!r} has no trainer log yet: its trainer has not been started")
    with newest.open(encoding="utf-8", errors="replace") as file:
        while True:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if not arguments.follow:
                return 0
            time.sleep(0.5)


def report(arguments: Namespace) -> int:
    """k2 report"""
    from k2.report.page import build_page
    from k2.run.ledger import read_facts

    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    page = build_page(recipe, layout, read_facts(layout.ledger), time.time())
    answer(arguments, {"page": str(page)}, str(page))
    return 0


def _ui(arguments: Namespace) -> AbstractContextManager[object]:
    """The Prefect server for the time of the run, where it was asked for."""
    if not arguments.ui:
        return nullcontext()
    from flows.driving import announced_server

    return announced_server(arguments.runs_dir, say)


def _conclude(arguments: Namespace, layout: RunLayout, code: int) -> int:
    recipe, _ = open_run(layout)
    with suppress(BrokenPipeError):  # how the run ended counts, not who still reads
        _show_status(arguments, read_status(recipe, layout))
        sys.stdout.flush()
    return code


def _show_status(arguments: Namespace, found: Status) -> None:
    from flows.wording import status_lines

    answer(arguments, found, status_lines(found, layout_of(arguments)))


def _wait_until_free(layout: RunLayout, seconds: float = 120.0) -> None:
    from k2.run.lease import is_held

    deadline = time.monotonic() + seconds
    while is_held(layout) and time.monotonic() < deadline:
        time.sleep(0.2)
