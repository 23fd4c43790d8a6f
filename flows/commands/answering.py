"""How every command answers: lines for a person, JSON for a program.

With `--json` standard output holds JSON only. Everything for a person goes to standard error while work is going
on, and to standard output where it is the answer.
"""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from k2.run.layout import RunLayout, run_root


def say(line: str) -> None:
    """One line for the person who watches, if there still is one."""
    with suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def show(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(plain(value), indent=1))


def show_lines(rows: Iterable[object]) -> None:
    """One JSON object a line."""
    for row in rows:
        print(json.dumps(plain(row)))


def layout_of(arguments: Namespace) -> RunLayout:
    return RunLayout(run_root(arguments.runs_dir, arguments.run))


def answer(arguments: Namespace, value: object, text: str) -> None:
    if arguments.json:
        show(value)
    else:
        print(text)


def plain(value: object) -> Any:
    """Models, dataclasses and paths as JSON knows them."""
    from dataclasses import asdict, is_dataclass

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value
