"""Building data and questioning it."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.answering import answer, layout_of, plain, say, show, show_lines
from k2.recipe.load import load_place, load_recipe, shipped_recipes
from k2.recipe.place import Place
from k2.run.layout import RunLayout, run_root
from k2.run.opening import create_or_open, open_run

if TYPE_CHECKING:
    from k2.data.audit import Mix
    from k2.data.derive import Derivation


def build(arguments: Namespace) -> int:
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
    answer(arguments, receipt.facts, f"{arguments.out}: {len(receipt.inputs)} chunks and tokenizer, digest {receipt.digest[:12]}")
    return 0


def verify(arguments: Namespace) -> int:
    """k2 data verify"""
    from k2.data.audit import verify

    folder = Path(arguments.folder)
    folder = folder if folder.is_dir() else run_root(arguments.runs_dir, arguments.folder)
    found = plain(verify(folder))
    said = f"every receipt and digest below {folder} agrees"
    if arguments.steps or arguments.step is not None:
        derived = _derive(arguments, RunLayout(folder))
        found = {**found, "bad": [*found["bad"], *derived.bad], "rederived": derived.model_dump(mode="json")}
        said += f"; {derived.rows} rows of {len(derived.steps)} steps are what {derived.documents} documents' raw text gives"
    answer(arguments, found, "\n".join(found["bad"]) or said)
    return 1 if found["bad"] else 0


def _derive(arguments: Namespace, layout: RunLayout) -> "Derivation":
    """The steps that were asked for, derived anew from the raw text."""
    from k2.data.derive import derive, some_steps
    from k2.run.ledger import read_facts

    recipe, place = open_run(layout)
    facts = read_facts(layout.ledger)
    if (arguments.stage is None) != (arguments.step is None):
        raise ValueError("say which step to derive: --stage S --step N; or how many: --steps N")
    named = [] if arguments.step is None else [(arguments.stage, arguments.step)]
    return derive(recipe, place, layout, facts, named + some_steps(recipe, facts, arguments.steps, arguments.seed))


def mix(arguments: Namespace) -> int:
    """k2 data mix"""
    found = _mix(arguments)
    if arguments.json:
        show(found)
        return 0
    for stage in found.stages:
        print(f"{stage.name} ({stage.basis})")
        print(f"  {'subset':30} {'repeat':>6} {'declared':>9} {'actual':>9} {'tokens':>21} {'samples a chunk':>19}")
        for one in stage.subsets:
            declared, actual = (f"{'':9}" if share is None else f"{100 * share:7.2f} %" for share in (one.declared, one.fraction))
            a_chunk = "" if one.per_chunk_min is None else f"{one.per_chunk_min:,} to {one.per_chunk_max:,}"
            print(f"  {one.name:30} {one.repeat:6g} {declared} {actual} {one.tokens or 0:21,.0f} {a_chunk:>19}")
    return 0


def _mix(arguments: Namespace) -> "Mix":
    """The mix that is asked for: planned, counted or declared."""
    from k2.data.audit import counted_mix, declared_mix
    from k2.data.manifest import planned_mix, read_manifest

    if arguments.tokens is not None:
        return planned_mix(load_recipe(arguments.recipe_or_run), read_manifest(arguments.tokens))
    layout = RunLayout(run_root(arguments.runs_dir, arguments.recipe_or_run))
    if arguments.recipe_or_run not in shipped_recipes() and layout.all_chunks.is_dir():
        return counted_mix(open_run(layout)[0], layout)
    return declared_mix(load_recipe(arguments.recipe_or_run))


def order(arguments: Namespace) -> int:
    """k2 data order"""
    from k2.data.operations import describe_order
    from k2.run.ledger import read_facts
    from k2.run.operations import ranges

    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    found = plain(describe_order(recipe, layout, read_facts(layout.ledger)))
    if arguments.json:
        show(found)
        return 0
    for stage in found["stages"]:
        print(f"{stage['name']}: {ranges(stage['order'])}")
        for done in stage["operations"]:
            print(f"  {done['operation']}, by {done['who']} at {done['when']}: {done['why']}")
        for branch in stage["branches"]:
            given_up = f", given up from step {branch['abandoned_from']} on" if branch["abandoned_from"] else ""
            source = branch["checkpoint"] or "scratch"
            print(f"  attempt {branch['attempt']} from {source}: steps {branch['first_step']} to {branch['last_step']}{given_up}")
    return 0


def seen(arguments: Namespace) -> int:
    """k2 data seen"""
    from k2.data.seen import accepted, attempted, seen_by_step, steps_of_document
    from k2.run.ledger import read_facts

    layout = layout_of(arguments)
    recipe, _ = open_run(layout)
    facts = read_facts(layout.ledger)
    if arguments.attempt is None:
        lineages = accepted(recipe, layout, facts, arguments.until)
    elif arguments.until is None:
        lineages = attempted(recipe, layout, facts, arguments.attempt)
    else:
        raise ValueError("--until asks for what a checkpoint has seen, --attempt for one attempt's own steps: give one of them")
    if arguments.document:
        rows = steps_of_document(recipe, layout, lineages, arguments.document)
    elif arguments.stage and arguments.step is not None:
        rows = seen_by_step(recipe, layout, lineages, recipe.stage(arguments.stage), arguments.step)
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
