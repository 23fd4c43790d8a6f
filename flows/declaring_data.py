"""The commands of `k2 data`: build, question, change the order, export and import."""

import argparse
from pathlib import Path

from flows.declaring import Commands, command


def add_data_commands(commands: Commands) -> None:
    group = commands.add_parser("data", help="build and question the data", description="Build and question the data.")
    data = group.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    build = command(data, "build", "build tokens and chunks, restartable", "data.build")
    build.add_argument("recipe")
    build.add_argument("--out", type=Path, required=True)
    build.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c")
    build.add_argument("--place", metavar="FILE")
    verify = command(data, "verify", "check every receipt and digest below a folder or of a run", "data.verify")
    verify.add_argument("folder", help="a folder, or the name of a run")
    verify.add_argument("--steps", type=int, default=0, metavar="N", help="also derive so many steps' rows anew from the raw text")
    verify.add_argument("--seed", type=int, default=0, help="draws them (default: 0)")
    verify.add_argument("--stage", help="with --step: this step's rows")
    verify.add_argument("--step", type=int)
    mix = command(data, "mix", "the mix, declared by a recipe or counted from a run's chunks", "data.mix")
    mix.add_argument("recipe_or_run")
    mix.add_argument("--tokens", type=Path, metavar="FILE", help="TOML with the tokens of each subset: plan the recipe's mix of them")
    command(data, "order", "the effective order of the chunks, with who, when, why, and who trained what", "data.order").add_argument("run")
    seen = command(data, "seen", "which documents a step consumed, or which steps a document", "data.seen")
    seen.add_argument("run")
    seen.add_argument("--stage")
    seen.add_argument("--step", type=int)
    seen.add_argument("--document", metavar="ID")
    seen.add_argument("--until", metavar="CKPT", help="only what this checkpoint has seen")
    seen.add_argument("--attempt", type=int, help="what this attempt has seen, also where a rollback gave it up")
    _add_data_operations(data)
    _add_data_layouts(data)


def _add_data_operations(data: Commands) -> None:
    def operation(name: str, words: str) -> argparse.ArgumentParser:
        parser = command(data, name, words, f"operations.{name}")
        parser.add_argument("run")
        parser.add_argument("--stage", required=True)
        parser.add_argument("--why", required=True, help="for whoever reads the ledger later")
        parser.add_argument("--who", help="default: the user who is logged in")
        return parser

    defer = operation("defer", "move the chunk at a position to the end of the order")
    defer.add_argument("--position", type=int, required=True)
    skip = operation("skip", "never train some steps, or some rows of a chunk")
    skip.add_argument("--steps", type=_range, metavar="A-B", help="counted from 1, the last one included")
    skip.add_argument("--chunk", type=int)
    skip.add_argument("--rows", type=_range, metavar="A-B", help="of the chunk, counted from 0, the last one included")
    reorder = operation("reorder", "put the chunks from a position on in another order")
    reorder.add_argument("--position", type=int, required=True)
    reorder.add_argument("--chunks", type=_numbers, required=True, metavar="A-B,C,...", help="what stands there in its new order")
    repeat = operation("repeat", "train the chunk at a position once more, in the place of a later one")
    repeat.add_argument("--position", type=int, required=True)
    repeat.add_argument("--at", type=int, required=True, metavar="POSITION", help="where; the chunk that stands there is left out")


def _add_data_layouts(data: Commands) -> None:
    export = command(data, "export", "write a run's chunks in another layout", "layouts.export")
    export.add_argument("chunks", help="the run whose chunks these are")
    export.add_argument("--format", choices=("jsonl", "megatron"), required=True, help="K2's published rows, or Megatron's .bin and .idx")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--stage", action="append", default=[], help="only this one (default: all)")
    export.add_argument("--chunk", type=int, action="append", default=[], help="only this one (default: all)")
    imported = command(data, "import", "take chunks that are tokenized already, ready to train on", "layouts.import_")
    imported.add_argument("recipe")
    imported.add_argument("source", type=Path, help="folder with <stage>/chunk_000.jsonl, or .bin and .idx, a file a chunk")
    imported.add_argument("--format", choices=("jsonl", "megatron"), required=True)
    imported.add_argument("--out", type=Path, required=True)
    imported.add_argument("--subset", help="the subset that Megatron's files are of: they do not say")
    imported.add_argument("--held-out", type=Path, metavar="FILE", help="documents for the evaluation: JSON lines of id, subset, text")
    imported.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c")
    imported.add_argument("--place", metavar="FILE")


def _range(text: str) -> tuple[int, int]:
    """`A-B`, or one number."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _numbers(text: str) -> tuple[int, ...]:
    """`0-15,32-37,160`."""
    return tuple(number for part in text.split(",") for first, last in [_range(part.strip())] for number in range(first, last + 1))
