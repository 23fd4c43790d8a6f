"""How a command of `k2` is declared: its name, the words about it, and the function that a module of `flows.commands` holds."""

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # the type has no public name


def command(commands: Commands, name: str, words: str, function: str) -> argparse.ArgumentParser:
    """A command whose function a module of `flows.commands` holds (`data.build`); it is imported when the command runs."""
    parser = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")

    def perform(arguments: argparse.Namespace) -> int:
        module, _, name = function.partition(".")
        chosen: Callable[[argparse.Namespace], int] = getattr(import_module(f"flows.commands.{module}"), name)
        return chosen(arguments)

    parser.set_defaults(perform=perform)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output and nothing else there")
    parser.add_argument(
        "--runs-dir", type=Path, default=Path(os.environ.get("K2_RUNS_DIR", "runs")), help="where runs lie (default: ./runs)"
    )
    return parser
