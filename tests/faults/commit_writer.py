"""One rank that commits checkpoints for ever, until it is killed: `commit_writer.py ROOT RANK NUM_RANKS ATTEMPT FIRST_STEP`.

The numbers of a step are a function of step and rank, so that whoever finds a checkpoint knows what must be in it.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from k2.checkpoint.commit import Commit, Measured, Share
from k2.checkpoint.shard import KINDS, Piece, shard_name, write_shard
from k2.run.injection import strike
from k2.run.receipt import Receipt, now, read_receipt

LENGTH = 20_000


def numbers(step: int, rank: int, kind: int) -> np.ndarray:
    return np.full(LENGTH, step + rank / 10 + kind / 100, dtype=np.float32)


def write(commit: Commit, rank: int, step: int) -> None:
    own = [numbers(step, rank, kind) for kind in range(len(KINDS))]
    listed = [(Piece(f"weight_{rank}", (LENGTH,), 0, LENGTH), dict(zip(KINDS, (part.data for part in own), strict=True)))]
    strike("ckpt.begin", step)
    file = write_shard(commit.open() / shard_name(rank), listed, updates=step)
    strike("ckpt.after_shard", step)
    squares = {kind: float(np.square(part).sum()) for kind, part in zip(KINDS, own, strict=True)}
    commit.hand_in(rank, Share(file=file, measured=Measured(updates=step, squares=squares, not_finite=0)))


def main() -> None:
    root, (rank, num_ranks, attempt, step) = Path(sys.argv[1]), map(int, sys.argv[2:])
    os.environ["RANK"] = str(rank)
    parent = None
    while True:
        commit = Commit(root / f"ckpt_{step:06d}", attempt, num_ranks)
        write(commit, rank, step)
        if rank == 0:
            facts = {"kind": "chunk", "stage": "stage1", "step": step, "tokens": step, "attempt": attempt, "parent": parent and parent.name}
            inputs = {"parent": parent.digest} if parent else {}
            receipt = Receipt(kind="checkpoint", name=commit.target.name, recipe="r", made_at=now(), inputs=inputs, facts=facts)
            parent = commit.seal(receipt, commit.collect(lambda: False), {"recipe.toml": f"step = {step}\n"}, lambda: True)
        while not commit.target.exists():  # as all ranks settle one before the next
            time.sleep(0.001)
        parent = parent or read_receipt(commit.target)
        step += 1


if __name__ == "__main__":
    main()
