"""Checkpoints by hand: what they are owed (export, score, publish), and which are kept."""

from argparse import Namespace
from collections.abc import Sequence

from flows.commands.answering import answer, layout_of, say, show_lines
from k2.recipe.load import RecipeError, load_place
from k2.recipe.place import Place
from k2.run.layout import RunLayout
from k2.run.opening import open_run


def export(arguments: Namespace) -> int:
    """k2 export"""
    from flows.driving import export_to

    layout = layout_of(arguments)
    receipt = export_to(layout, arguments.checkpoint, arguments.out, say)
    shown = {"max_abs_logit_difference": receipt.facts["max_abs_logit_difference"], "out": str(arguments.out), "digest": receipt.digest}
    answer(arguments, shown, f"{arguments.out}: logits agree to {receipt.facts['max_abs_logit_difference']:.3g}")
    return 0


def evaluate(arguments: Namespace) -> int:
    """k2 eval"""
    from flows.driving import score_plainly

    if arguments.run == "fetch":
        return _fetch(arguments)
    if "://" in arguments.run:
        return _evaluate_published(arguments)
    if arguments.place is not None:
        raise RecipeError("--place says where the checkpoints of a target are scored; a run has its own place")
    layout = layout_of(arguments)
    open_run(layout)
    score_plainly(layout, (arguments.suite,) if arguments.suite else (), tuple(arguments.checkpoint), say)
    _show_scores(arguments, layout, arguments.checkpoint)
    return 0


def _evaluate_published(arguments: Namespace) -> int:
    """k2 eval TARGET"""
    from flows.published import Wanted, score_published
    from flows.work import plainly
    from k2.publish.restore import parse_source

    source = parse_source(arguments.run)
    chosen = (*arguments.checkpoint, *([source.checkpoint] if source.checkpoint else ()))
    wanted = Wanted(source.target, chosen, (arguments.suite,) if arguments.suite else ())
    place = load_place(arguments.place) if arguments.place else None
    layout, _, failed = score_published(wanted, arguments.runs_dir, place, say, lambda run: plainly(run.say))
    _show_scores(arguments, layout, chosen)
    if failed:
        raise RuntimeError("not all could be scored: " + "; ".join(f"{name}: {why}" for name, why in failed.items()))
    return 0


def _show_scores(arguments: Namespace, layout: RunLayout, chosen: Sequence[str]) -> None:
    from k2.eval.scores import read_scores

    rows = [row for row in read_scores(layout) if (not chosen or row.checkpoint in chosen) and arguments.suite in (None, row.suite)]
    if arguments.json:
        show_lines(rows)
        return
    for row in rows:
        print(f"{row.checkpoint}  {row.stage:8} {row.task:20} {row.shots:>2}-shot  {row.metric:16} {row.value:8.4f}")


def restore(arguments: Namespace) -> int:
    """k2 restore"""
    from flows.credentials import credentials_of
    from k2.publish.restore import describe, parse_source
    from k2.publish.restore import restore as restore_run

    source = parse_source(arguments.source, arguments.checkpoint)
    place = load_place(arguments.place) if arguments.place else Place()
    with credentials_of(place):
        restored = restore_run(source, layout_of(arguments), place, say)
    answer(arguments, restored, describe(restored, source))
    return 0


def _fetch(arguments: Namespace) -> int:
    """k2 eval fetch"""
    from k2.eval.fetch import fetch

    if arguments.to is None:
        raise RecipeError("k2 eval fetch needs --to DIR, the folder to fill; `k2 eval ./fetch` means a run of that name")
    fetched = fetch(arguments.to, arguments.source, arguments.offline, say)
    missing = f"; {len(fetched.missing)} are missing: {', '.join(fetched.missing)}" if fetched.missing else ""
    answer(arguments, fetched, f"{arguments.to}: {len(fetched.data_sets)} data sets{missing}")
    return 1 if fetched.missing else 0


def publish(arguments: Namespace) -> int:
    """k2 publish"""
    from flows.driving import publish_to

    layout = layout_of(arguments)
    rows = publish_to(layout, arguments.to, tuple(arguments.checkpoint), say)
    if arguments.json:
        show_lines(rows)
        return 0
    for row in rows:
        print(f"{row['checkpoint']}  {row['target']}  {row['files']} files, {row['bytes']:,} bytes, verified")
    return 0


def import_model(arguments: Namespace) -> int:
    """k2 import"""
    from flows.importing import import_run
    from k2.recipe.load import load_place

    layout = layout_of(arguments)
    place = load_place(arguments.place) if arguments.place else None
    receipt = import_run(layout, arguments.folder, arguments.recipe, tuple(arguments.overrides), place, say)
    difference = receipt.facts["max_abs_logit_difference"]
    shown = {
        "max_abs_logit_difference": difference,
        "run": layout.name,
        "checkpoint": receipt.name,
        "parameters": receipt.facts["parameters"],
    }
    answer(
        arguments,
        shown,
        f"{layout.name} starts from {receipt.name}: logits agree to {difference:.3g}; go on with `k2 resume {layout.name}`",
    )
    return 0


def pin(arguments: Namespace) -> int:
    """k2 pin"""
    from k2.checkpoint import retention

    layout = layout_of(arguments)
    open_run(layout)
    (retention.unpin if arguments.release else retention.pin)(layout, arguments.checkpoint)
    kept = sorted(retention.pinned(layout))
    answer(arguments, {"kept": kept, "removed": []}, f"pinned: {', '.join(kept) or 'nothing'}")
    return 0


def prune(arguments: Namespace) -> int:
    """k2 prune"""
    from flows.driving import prune_run

    kept, removed = prune_run(layout_of(arguments), say)
    answer(
        arguments, {"kept": kept, "removed": removed}, f"removed: {', '.join(removed) or 'nothing'}; kept: {', '.join(kept) or 'nothing'}"
    )
    return 0
