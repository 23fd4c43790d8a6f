"""The commands of `k2`: read, call one function of k2 or one loop, print. Declared in `flows.cli`.

With `--json` standard output holds JSON only. Everything for a person goes to standard error while work is going
on, and to standard output where it is the answer.
"""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from k2.recipe.load import RecipeError, differences, load_place, load_recipe, shipped_recipes
from k2.recipe.schema import Place
from k2.run.layout import RunLayout, run_root
from k2.run.opening import create_or_open, existing_runs, open_run
from k2.run.status import Status, read_status


def say(line: str) -> None:
    """One line for the person who watches, if there still is one."""
    with suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def show(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(_plain(value), indent=1))


def show_lines(rows: Iterable[object]) -> None:
    """One JSON object a line."""
    for row in rows:
        print(json.dumps(_plain(row)))


def run(arguments: Namespace) -> int:
    """k2 run"""
    from flows.driving import drive_new

    layout = _layout(arguments)
    load_recipe(arguments.recipe, tuple(arguments.overrides))  # a bad recipe fails before a server starts
    with _ui(arguments):
        code = drive_new(layout, arguments.recipe, tuple(arguments.overrides), arguments.place, say)
    return _conclude(arguments, layout, code)


def resume(arguments: Namespace) -> int:
    """k2 resume"""
    from flows.driving import drive_existing

    layout = _layout(arguments)
    open_run(layout)
    with _ui(arguments):
        code = drive_existing(layout, say)
    return _conclude(arguments, layout, code)


def status(arguments: Namespace) -> int:
    """k2 status"""
    layout = _layout(arguments)
    recipe, _ = open_run(layout)
    _show_status(arguments, read_status(recipe, layout))
    return 0


def stop(arguments: Namespace) -> int:
    """k2 stop"""
    from k2.run.control import request_stop
    from k2.run.lease import is_held
    from k2.run.ledger import last_attempt, read_facts

    layout = _layout(arguments)
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
    from k2.run.holdings import read_holdings
    from k2.run.lease import hold
    from k2.run.ledger import append_facts, read_facts
    from k2.watch.policy import decide as decide_incident

    layout = _layout(arguments)
    recipe, _ = open_run(layout)
    with hold(layout):
        facts = read_facts(layout.ledger)
        holdings = read_holdings(recipe, layout, facts)
        answers = decide_incident(recipe, facts, holdings, arguments.incident, arguments.action, arguments.to, arguments.data, "user")
        append_facts(layout.ledger, *answers)
    incident = read_status(recipe, layout).incidents[arguments.incident - 1]
    _answer(arguments, incident, f"incident {arguments.incident} is answered: {arguments.action}; go on with `k2 resume {layout.name}`")
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
    layout = _layout(arguments)
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

    layout = _layout(arguments)
    recipe, _ = open_run(layout)
    page = build_page(recipe, layout, read_facts(layout.ledger), time.time())
    _answer(arguments, {"page": str(page)}, str(page))
    return 0


def plan(arguments: Namespace) -> int:
    """k2 plan"""
    from k2.estimate import describe
    from k2.estimate import plan as plan_recipe

    planned = plan_recipe(load_recipe(arguments.recipe, tuple(arguments.overrides)))
    _answer(arguments, planned, describe(planned))
    return 0


def recipe_check(arguments: Namespace) -> int:
    """k2 recipe check"""
    from k2.recipe.load import digest

    recipe = load_recipe(arguments.recipe)
    _answer(
        arguments, {"recipe": recipe.name, "digest": digest(recipe), "differences": []}, f"{recipe.name} is sound; digest {digest(recipe)}"
    )
    return 0


def recipe_diff(arguments: Namespace) -> int:
    """k2 recipe diff"""
    found = differences(load_recipe(arguments.a), load_recipe(arguments.b))
    _answer(arguments, {"differences": found}, "\n".join(found) or "no differences")
    return 0


def export(arguments: Namespace) -> int:
    """k2 export"""
    from flows.driving import export_to

    layout = _layout(arguments)
    receipt = export_to(layout, arguments.checkpoint, arguments.out, say)
    shown = {"max_abs_logit_difference": receipt.facts["max_abs_logit_difference"], "out": str(arguments.out), "digest": receipt.digest}
    _answer(arguments, shown, f"{arguments.out}: logits agree to {receipt.facts['max_abs_logit_difference']:.3g}")
    return 0


def evaluate(arguments: Namespace) -> int:
    """k2 eval"""
    from flows.driving import settle_plainly
    from k2.eval.scores import read_scores

    layout = _layout(arguments)
    suite = open_run(layout)[0].evaluation.suite
    if arguments.suite not in (None, suite):
        raise RecipeError(f"--suite {arguments.suite}: this run's recipe scores with {suite!r}; a run has one suite, leave --suite out")
    settle_plainly(layout, ("verified", "exported", "evaluated"), tuple(arguments.checkpoint), say)
    rows = [row for row in read_scores(layout) if not arguments.checkpoint or row.checkpoint in arguments.checkpoint]
    if arguments.json:
        show_lines(rows)
        return 0
    for row in rows:
        print(f"{row.checkpoint}  {row.stage:8} {row.task:20} {row.shots:>2}-shot  {row.metric:16} {row.value:8.4f}")
    return 0


def publish(arguments: Namespace) -> int:
    """k2 publish"""
    from flows.driving import publish_to

    layout = _layout(arguments)
    rows = publish_to(layout, arguments.to, tuple(arguments.checkpoint), say)
    if arguments.json:
        show_lines(rows)
        return 0
    for row in rows:
        print(f"{row['checkpoint']}  {row['target']}  {row['files']} files, {row['bytes']:,} bytes, verified")
    return 0


def data_build(arguments: Namespace) -> int:
    """k2 data build"""
    from k2.data.build import build
    from k2.run.durable import sweep
    from k2.run.lease import hold

    layout = RunLayout(arguments.out)
    recipe, place = load_recipe(arguments.recipe, tuple(arguments.overrides)), load_place(arguments.place) if arguments.place else Place()
    with hold(layout):
        create_or_open(layout, recipe, place)
        sweep(layout.root)
        receipt = build(recipe, place, layout, say)
    _answer(arguments, receipt.facts, f"{arguments.out}: {len(receipt.inputs)} chunks and tokenizer, digest {receipt.digest[:12]}")
    return 0


def data_verify(arguments: Namespace) -> int:
    """k2 data verify"""
    from k2.data.audit import verify

    found = verify(arguments.folder)
    bad = _plain(found)["bad"]
    _answer(arguments, found, "\n".join(str(line) for line in bad) or f"every receipt and digest below {arguments.folder} agrees")
    return 1 if bad else 0


def data_mix(arguments: Namespace) -> int:
    """k2 data mix"""
    from k2.data.audit import counted_mix, declared_mix

    layout = RunLayout(run_root(arguments.runs_dir, arguments.recipe_or_run))
    counted = arguments.recipe_or_run not in shipped_recipes() and layout.all_chunks.is_dir()
    found = _plain(counted_mix(open_run(layout)[0], layout) if counted else declared_mix(load_recipe(arguments.recipe_or_run)))
    if arguments.json:
        show(found)
        return 0
    for stage in found["stages"]:
        print(f"{stage['name']} ({'counted from the chunks' if counted else 'declared'})")
        for subset in stage["subsets"]:
            fraction = "" if subset["fraction"] is None else f"{100 * subset['fraction']:6.2f} %"
            print(f"  {subset['name']:30} x{subset['repeat']:<5g} {fraction:>9}  {subset['tokens'] or 0:>18,.0f} tokens")
    return 0


def data_order(arguments: Namespace) -> int:
    """k2 data order"""
    from k2.data.operations import describe_order
    from k2.run.ledger import read_facts

    layout = _layout(arguments)
    recipe, _ = open_run(layout)
    found = _plain(describe_order(recipe, read_facts(layout.ledger)))
    if arguments.json:
        show(found)
        return 0
    for stage in found["stages"]:
        print(f"{stage['name']}: {' '.join(str(chunk) for chunk in stage['order'])}")
        for done in stage["operations"]:
            print(f"  {done['operation']}, by {done['who']} at {done['when']}: {done['why']}")
    return 0


def data_seen(arguments: Namespace) -> int:
    """k2 data seen"""
    from k2.data.seen import seen_by_step, steps_of_document
    from k2.run.ledger import read_facts

    layout = _layout(arguments)
    recipe, _ = open_run(layout)
    facts = read_facts(layout.ledger)
    if arguments.document:
        rows = steps_of_document(recipe, layout, facts, arguments.document)
    elif arguments.stage and arguments.step:
        rows = seen_by_step(recipe, layout, facts, recipe.stage(arguments.stage), arguments.step)
    else:
        raise ValueError("say what to look for: --stage S --step N, or --document ID")
    found = list(rows)
    if arguments.json:
        show_lines(found)
    for one in () if arguments.json else found:
        tokens = f"tokens {one.token_start}-{one.token_end}"
        print(f"{one.stage} step {one.step:>6}  chunk {one.chunk:03d} row {one.row:>6}  {one.subset:20} {one.document}  {tokens}")
    if not found:
        say("nothing: no trained step of the accepted lineage is meant (it is skipped, or not trained yet)")
    return 0


def spikes_replay(arguments: Namespace) -> int:
    """k2 spikes replay"""
    from k2.watch.replay import replay

    if not arguments.file.is_file():
        raise ValueError(f"no file {arguments.file}: give a curve recorded as .csv, .csv.gz or .jsonl with the columns step and loss")
    show_lines(event.shown() for event in replay(arguments.file, load_recipe(arguments.recipe).spikes))
    return 0


def up(arguments: Namespace) -> int:
    """k2 up"""
    from flows.server import up as start

    service = start(arguments.runs_dir, arguments.host, arguments.port)
    _answer(arguments, {"url": service.ui_url}, f"the UI is at {service.ui_url}; `k2 down` ends it")
    return 0


def down(arguments: Namespace) -> int:
    """k2 down"""
    from flows.server import down as end

    ended = end(arguments.runs_dir)
    _answer(arguments, {"url": None, "ended": bool(ended)}, "server and worker have ended" if ended else "no server was running")
    return 0


def _layout(arguments: Namespace) -> RunLayout:
    return RunLayout(run_root(arguments.runs_dir, arguments.run))


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

    _answer(arguments, found, status_lines(found, _layout(arguments)))


def _wait_until_free(layout: RunLayout, seconds: float = 120.0) -> None:
    from k2.run.lease import is_held

    deadline = time.monotonic() + seconds
    while is_held(layout) and time.monotonic() < deadline:
        time.sleep(0.2)


def _answer(arguments: Namespace, value: object, text: str) -> None:
    if arguments.json:
        show(value)
    else:
        print(text)


def _plain(value: object) -> Any:
    """Models, dataclasses and paths as JSON knows them."""
    from dataclasses import asdict, is_dataclass

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value
