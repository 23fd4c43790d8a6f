"""Questioning the spike detector."""

from argparse import Namespace

from flows.commands.answering import answer, show_lines
from k2.recipe.load import load_recipe


def replay(arguments: Namespace) -> int:
    """k2 spikes replay"""
    from k2.watch.replay import replay

    if not arguments.file.is_file():
        raise ValueError(f"no file {arguments.file}: give a curve recorded as .csv, .csv.gz or .jsonl with the columns step and loss")
    show_lines(event.shown() for event in replay(arguments.file, load_recipe(arguments.recipe).spikes))
    return 0


def benchmark(arguments: Namespace) -> int:
    """k2 spikes benchmark"""
    from k2.watch.comparison import compare

    seeds = range(arguments.seed, arguments.seed + arguments.count)
    compared = compare(load_recipe(arguments.recipe).spikes, seeds, arguments.folder)
    answer(arguments, compared.shown(), compared.text())
    return 0
