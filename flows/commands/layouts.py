"""Chunks to and from other layouts: K2's published JSONL, Megatron's indexed format."""

from argparse import Namespace

from flows.commands.answering import answer, say
from k2.recipe.load import load_place, load_recipe
from k2.recipe.place import Place
from k2.run.layout import RunLayout, run_root
from k2.run.opening import create_or_open, open_run


def export(arguments: Namespace) -> int:
    """k2 data export"""
    from k2.data.export import Export, export_chunks

    layout = RunLayout(run_root(arguments.runs_dir, arguments.chunks))
    recipe, place = open_run(layout)
    job = Export(recipe, place, layout, arguments.format, arguments.out)
    stages = [recipe.stage(name) for name in arguments.stage] or list(recipe.stages)
    for number in arguments.chunk:
        if not all(0 <= number < stage.chunks for stage in stages):
            raise ValueError(f"--chunk {number}: {', '.join(f'{s.name} has the chunks 0 to {s.chunks - 1}' for s in stages)}")
    written = [receipt for stage in stages for receipt in export_chunks(job, stage, arguments.chunk or list(range(stage.chunks)), say)]
    counts = {
        "format": arguments.format,
        "chunks": len(written),
        "rows": sum(receipt.facts["rows"] for receipt in written),
        "tokens": sum(receipt.facts["tokens"] for receipt in written),
        "bytes": sum(file.bytes for receipt in written for file in receipt.files),
    }
    answer(arguments, counts, f"{arguments.out}: {counts['chunks']} chunks, {counts['rows']:,} rows, {counts['bytes'] / 1e9:.2f} GB")
    return 0


def import_(arguments: Namespace) -> int:
    """k2 data import"""
    from k2.data.import_chunks import Import, import_chunks
    from k2.run.lease import hold

    layout = RunLayout(arguments.out)
    recipe, place = load_recipe(arguments.recipe, tuple(arguments.overrides)), load_place(arguments.place) if arguments.place else Place()
    job = Import(recipe, place, layout, arguments.source, arguments.format, arguments.subset, arguments.held_out)
    with hold(layout):
        create_or_open(layout, recipe, place)
        receipt = import_chunks(job, say)
    answer(arguments, receipt.facts, f"{arguments.out}: ready to train on, `k2 run {arguments.recipe} --run {arguments.out.resolve()}`")
    return 0
