"""Questioning the spike detector."""

from argparse import Namespace

from flows.commands.answering import show_lines
from k2.recipe.load import load_recipe


def replay(arguments: Namespace) -> int:
    """k2 spikes replay"""
    from k2.watch.replay import replay

    if not arguments.file.is_file():
        raise ValueError(f"no file {arguments.file}: give a curve recorded as .csv, .csv.gz or .jsonl with the columns step and loss")
    show_lines(event.shown() for event in replay(arguments.file, load_recipe(arguments.recipe).spikes))
    return 0
