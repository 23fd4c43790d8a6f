"""Damage checkpoints at random, in every way a disk or a hand can, and try to load them: `corrupt.py --count 1000`.

A silent load is one that verification lets pass although a number, a fact or an input that would be used is another. What is
damaged is put back before the next, so that every damage is judged alone.
"""

import argparse
import collections
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from commit_writer import write

from k2.checkpoint.commit import Commit
from k2.checkpoint.select import verify
from k2.checkpoint.shard import KINDS
from k2.checkpoint.state import StateReader
from k2.run.layout import RunLayout
from k2.run.receipt import Receipt, now, read_receipt

RANKS, STEPS = 2, 4
Damage = Callable[[Path, "Case"], None]


class Case:
    """A run's checkpoints, another attempt's of the same names, and the chance that decides where it strikes."""

    def __init__(self, root: Path, seed: int) -> None:
        self.layout, self.elsewhere, self.chance = RunLayout(root / "run"), RunLayout(root / "other"), random.Random(seed)
        for layout, attempt in ((self.layout, 1), (self.elsewhere, 2)):
            layout.checkpoints.mkdir(parents=True)
            commit_all(layout, attempt)
        self.good = {path.name: contents(path) for path in self.layout.checkpoints.iterdir()}

    def file(self, folder: Path) -> Path:
        return self.chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))

    def shard(self, folder: Path) -> Path:
        return self.chance.choice(sorted((folder / "state").iterdir()))


def commit_all(layout: RunLayout, attempt: int) -> None:
    parent: Receipt | None = None
    for step in range(1, STEPS + 1):
        commit = Commit(layout.checkpoint(f"ckpt_{step:06d}"), attempt, RANKS)
        for rank in range(RANKS):
            write(commit, rank, step if attempt == 1 else step + 100)
        facts = {"kind": "chunk", "stage": "stage1", "step": step, "tokens": step, "attempt": attempt, "parent": parent and parent.name}
        inputs = {"parent": parent.digest} if parent else {}
        receipt = Receipt(kind="checkpoint", name=commit.target.name, recipe="r", made_at=now(), inputs=inputs, facts=facts)
        parent = commit.seal(receipt, commit.collect(lambda: False), {"recipe.toml": "name = 'mini'\n"}, lambda: True)


def contents(folder: Path) -> tuple[object, ...]:
    """All that a resume would use: the receipt without its times, and every number."""
    receipt = read_receipt(folder)
    with StateReader(folder) as state:
        numbers = [state.whole(name, kind).tobytes() for name in state.names for kind in KINDS]
        return receipt.digest, receipt.recipe, state.updates, *numbers


def flip_a_bit(folder: Path, case: Case) -> None:
    path = case.file(folder)
    content = bytearray(path.read_bytes())
    content[case.chance.randrange(len(content))] ^= 1 << case.chance.randrange(8)
    path.write_bytes(content)


def truncate(folder: Path, case: Case) -> None:
    path = case.file(folder)
    path.write_bytes(path.read_bytes()[: case.chance.randrange(path.stat().st_size)])


def zero_a_page(folder: Path, case: Case) -> None:
    path = case.shard(folder)
    content = bytearray(path.read_bytes())
    page = case.chance.randrange(len(content) // 4096) * 4096
    content[page : page + 4096] = bytes(4096)
    path.write_bytes(content)


def lose(folder: Path, case: Case) -> None:
    case.file(folder).unlink()


def swap_steps(folder: Path, case: Case) -> None:
    other = case.chance.choice(sorted(path for path in case.layout.checkpoints.iterdir() if path != folder))
    path = case.file(folder)
    shutil.copyfile(other / path.relative_to(folder), path)


def swap_ranks(folder: Path, case: Case) -> None:
    one, other = sorted((folder / "state").iterdir())
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def stale_epoch(folder: Path, case: Case) -> None:
    """A shard, or the receipt, of another attempt's checkpoint of the same name."""
    path = case.file(folder)
    while path.name == "recipe.toml":  # the same in both
        path = case.file(folder)
    shutil.copyfile(case.elsewhere.checkpoint(folder.name) / path.relative_to(folder), path)


def exchange_whole(folder: Path, case: Case) -> None:
    """By a good checkpoint of another attempt: only the chain of parents tells, so it is one that others went on from."""
    folder = case.layout.checkpoint(f"ckpt_{case.chance.randrange(1, STEPS):06d}")
    shutil.rmtree(folder)
    shutil.copytree(case.elsewhere.checkpoint(folder.name), folder)


def append(folder: Path, case: Case) -> None:
    with case.file(folder).open("ab") as file:
        file.write(case.chance.randbytes(case.chance.randrange(1, 64)))


def put_in(folder: Path, case: Case) -> None:
    (folder / "state" / f"rank_{case.chance.randrange(2, 99):05d}.safetensors").write_bytes(case.shard(folder).read_bytes())


def link_out(folder: Path, case: Case) -> None:
    path = case.shard(folder)
    path.unlink()
    path.symlink_to(case.elsewhere.checkpoint(folder.name) / path.relative_to(folder))


DAMAGES: tuple[Damage, ...] = (
    flip_a_bit, flip_a_bit, flip_a_bit, truncate, zero_a_page, lose, swap_steps, swap_ranks, stale_epoch, exchange_whole, append, put_in,
    link_out,
)  # fmt: skip


def corrupt(root: Path, count: int, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """How often each damage was seen, or left everything that counts as it was; and the silent loads."""
    case, seen, silent = Case(root, seed), collections.Counter[str](), []
    pristine = root / "pristine"
    shutil.copytree(case.layout.checkpoints, pristine)
    for _ in range(count):
        folder, damage = case.layout.checkpoint(f"ckpt_{case.chance.randrange(1, STEPS + 1):06d}"), case.chance.choice(DAMAGES)
        damage(folder, case)
        for path in case.layout.checkpoints.iterdir():
            if not verify(case.layout, path.name):
                if contents(path) != case.good[path.name]:
                    silent.append(f"{damage.__name__} of {path.name}")
                continue
            seen[f"{damage.__name__}: seen"] += 1
            break
        else:
            seen[f"{damage.__name__}: changed nothing that is used"] += 1
        shutil.rmtree(case.layout.checkpoints)
        shutil.copytree(pristine, case.layout.checkpoints)
    return seen, silent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen, silent = corrupt(Path(folder), asked.count, asked.seed)
    for what, times in sorted(seen.items()):
        print(f"{times:5}  {what}")
    print(f"{asked.count} damages, {len(silent)} silent loads")
    print(*silent, sep="\n")
    sys.exit(1 if silent else 0)


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
