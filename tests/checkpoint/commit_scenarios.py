"""Run under torchrun on two ranks: checkpoints that are saved and some that one rank cannot save. Prints what each rank saw.

Argument: the folder to work in.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from k2.checkpoint.agreement import AgreedProblem, HostsDiffer, any_rank, same_everywhere, together, total, verify_together
from k2.checkpoint.commit import Commit
from k2.checkpoint.placed import PlacedPiece, TrainingState
from k2.checkpoint.saving import Order, Saver
from k2.checkpoint.shard import KINDS, Piece
from k2.run.receipt import Receipt, now


def state(value: float) -> TrainingState:
    piece = PlacedPiece(Piece(f"weight_{dist.get_rank()}", (500,), 0, 500), 0, 0)
    return TrainingState((piece,), {kind: [torch.full((504,), value)] for kind in KINDS}, updates=8)


def save(saver: Saver, target: Path, value: float = 1.0, current: bool = True) -> Receipt | None:
    receipt = Receipt(kind="checkpoint", name=target.name, recipe="r", made_at=now(), facts={"step": 8})
    saver.begin(Order(Commit(target, 1, 2), receipt, {"recipe.toml": "text"}, lambda: None, lambda: current), state(value))
    return saver.settle()


def refuse_on_rank_1() -> int:
    if dist.get_rank() == 1:
        raise ValueError("rank 1 refuses")
    return 7


def problem_of(act) -> str:
    try:
        act()
    except AgreedProblem as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def main() -> None:
    root = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    saver, seen = Saver(rank, 2), {}
    sealed = save(saver, root / "good")
    seen["sealed on"] = sealed is not None
    seen["good"] = verify_together(root / "good").facts
    seen["again"] = problem_of(lambda: save(saver, root / "good"))
    if rank == 1:
        os.environ["K2_FAULTS"] = json.dumps([{"at": "ckpt.after_shard", "rank": 1, "do": "ENOSPC", "times": 3}])
    seen["no room"] = problem_of(lambda: save(saver, root / "no_room"))
    seen["room again"] = problem_of(lambda: save(saver, root / "room_again"))
    seen["superseded"] = problem_of(lambda: save(saver, root / "superseded", current=False))
    seen["infinite"] = problem_of(lambda: save(saver, root / "infinite", float("inf") if rank == 1 else 1.0))
    seen["refused"] = problem_of(lambda: together(refuse_on_rank_1))
    seen["flag of rank 1"] = any_rank(rank == 1)
    seen["no flag"] = any_rank(False)
    try:
        same_everywhere({"the code": "one"})
        same_everywhere({"the code": "one", "the order": "0 1 2" if rank == 0 else "0 2 1", "torch": "2"})
    except HostsDiffer as differ:
        seen["differ"] = str(differ)
    seen["total"] = total([1.0, float(rank)])
    dist.barrier()
    seen["left"] = sorted(path.name for path in root.iterdir() if path.is_dir())
    if rank == 0:
        (root / "good" / "state" / "rank_00001.safetensors").write_bytes(b"STATE" * 1000)
    dist.barrier()
    seen["damaged"] = problem_of(lambda: verify_together(root / "good"))
    seen["missing"] = problem_of(lambda: verify_together(root / "nowhere"))
    (root / f"seen_{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
