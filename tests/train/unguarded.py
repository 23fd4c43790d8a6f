"""Take the guard against each trap away, in a copy of the repository, and see the test named beside it fail.

    python tests/train/unguarded.py [--only WORD] [--count N --seed S]

Prints a line a trap: the first words of the failure, or HELD when the test passes all the same. Ends with 1 if one does.
All of them take about ten minutes on two cores.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 280.0
_SAID = re.compile(r"^(?:E\s+)?(?:[\w.]+\.)?(\w*(?:Error|Exception|Found|Failed|Refused)\b.*|assert .*)")
_OF_THE_HARNESS = ("RuntimeError: a rank of", "Traceback", "assert 1 == 0")


@dataclass(frozen=True)
class Guard:
    """Some text of a file, and what stands there when nobody guards."""

    file: str
    text: str
    without: str


@dataclass(frozen=True)
class Trap:
    what: str
    test: str
    guards: tuple[Guard, ...]


def all_traps() -> list[Trap]:
    """Those of `traps.toml`."""
    listed = tomllib.loads(Path(__file__).with_name("traps.toml").read_text())["trap"]
    return [Trap(one["what"], one["test"], tuple(Guard(**guard) for guard in one["guard"])) for one in listed]


def moved(guard: Guard) -> str:
    """What to do about a guard that is not found."""
    return f"traps.toml names a guard in {guard.file} that does not stand there once: give its text as it is now: {guard.text}"


def failure_without(trap: Trap, copy: Path) -> str | None:
    """How the trap's test fails in the copy without its guards, which then stand again; None where it passes."""
    whole = {guard.file: (copy / guard.file).read_text() for guard in trap.guards}
    try:
        for guard in trap.guards:
            path = copy / guard.file
            assert guard.text in path.read_text(), moved(guard)
            path.write_text(path.read_text().replace(guard.text, guard.without))
        return _failure(trap.test, copy)
    finally:
        for file, text in whole.items():
            (copy / file).write_text(text)


def _failure(test: str, copy: Path) -> str | None:
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-m", "slow or not slow", "-p", "no:cacheprovider", test]
    try:
        ran = subprocess.run(
            argv,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {PATIENCE_SECONDS:.0f} s"
    if ran.returncode == 0:
        return None
    assert ran.returncode == 1, ran.stdout + ran.stderr  # no such test, or pytest itself
    said = [found[1] for line in ran.stdout.splitlines() if (found := _SAID.match(line)) and "Warning: " not in line]
    return next((line for line in said if not line.removeprefix("AssertionError: ").startswith(_OF_THE_HARNESS)), ran.stdout[-500:])


def copied(folder: Path) -> Path:
    """The packages and their tests, as they stand here."""
    for name in ("k2", "flows", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="traps whose description or test has the word")
    parser.add_argument("--count", type=int, help="so many of them, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    traps = [trap for trap in all_traps() if asked.only in trap.what + trap.test]
    if asked.count is not None:
        traps = random.Random(asked.seed).sample(traps, min(asked.count, len(traps)))
    held = 0
    with tempfile.TemporaryDirectory(prefix="unguarded-") as folder:
        copy = copied(Path(folder))
        for trap in traps:
            failure = failure_without(trap, copy)
            held += failure is None
            print(f"{trap.what}\n    {trap.test.removeprefix('tests/')}\n    {failure or 'HELD: it passes without the guard'}", flush=True)
    print(f"{len(traps) - held} of {len(traps)} traps are seen by their test")
    return 1 if held else 0


if __name__ == "__main__":
    sys.exit(main())
