"""Building data and questioning it."""

from argparse import Namespace
from pathlib import Path

from flows.commands.answering import answer, layout_of, plain, say, show, show_lines
from k2.recipe.load import load_place, load_recipe, shipped_recipes
from k2.recipe.schema import Place
from k2.run.layout import RunLayout, run_root
from k2.run.opening import create_or_open, open_run


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
    found = verify(folder)
    bad = plain(found)["bad"]
    answer(arguments, found, "\n".join(str(line) for line in bad) or f"every receipt and digest below {folder} agrees")
    return 1 if bad else 0


def mix(arguments: Namespace) -> int:
    """k2 data mix"""
    from k2.data.audit import counted_mix, declared_mix

    layout = RunLayout(run_root(arguments.runs_dir, arguments.recipe_or_run))
    counted = arguments.recipe_or_run not in shipped_recipes() and layout.all_chunks.is_dir()
    found = plain(counted_mix(open_run(layout)[0], layout) if counted else declared_mix(load_recipe(arguments.recipe_or_run)))
    if arguments.json:
        show(found)
        return 0
    for stage in found["stages"]:
        print(f"{stage['name']} ({'counted from the chunks' if counted else 'declared'})")
        for subset in stage["subsets"]:
            fraction = "" if subset["fraction"] is None else f"{100 * subset['fraction']:6.2f} %"
            print(f"  {subset['name']:30} x{subset['repeat']:<5g} {fraction:>9}  {subset['tokens'] or 0:>18,.0f} tokens")
    return 0


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
