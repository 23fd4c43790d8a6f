"""Run under torchrun on two ranks: commits that go well and commits that fail on one rank. Prints what each rank saw.

Argument: the folder to work in.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from k2.checkpoint.commit import AgreedProblem, any_rank, commit_checkpoint, together, verify_together
from k2.run.receipt import Receipt, now


def receipt(name: str) -> Receipt:
    return Receipt(kind="checkpoint", name=name, recipe="r", made_at=now(), facts={"step": 8})


def write(folder: Path) -> None:
    (folder / f"rank_{dist.get_rank()}.pt").write_bytes(b"state" * 1000)


def write_but_on_rank_1(folder: Path) -> str | None:
    if dist.get_rank() == 1:
        return "No space left on device"
    write(folder)
    return None


def refuse_on_rank_1() -> int:
    if dist.get_rank() == 1:
        raise ValueError("rank 1 refuses")
    return 7


def problem_of(act) -> str:
    try:
        act()
    except AgreedProblem as problem:
        return str(problem)
    return ""


def main() -> None:
    root = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    seen = {}
    commit_checkpoint(root / "good", receipt("good"), write)
    seen["good"] = verify_together(root / "good").facts
    seen["again"] = problem_of(lambda: commit_checkpoint(root / "good", receipt("good"), write))
    seen["no room"] = problem_of(lambda: commit_checkpoint(root / "no_room", receipt("no_room"), write_but_on_rank_1))
    seen["refused"] = problem_of(lambda: together(refuse_on_rank_1))
    seen["flag of rank 1"] = any_rank(rank == 1)
    seen["no flag"] = any_rank(False)
    dist.barrier()
    if rank == 0:
        (root / "good" / "state" / "rank_1.pt").write_bytes(b"STATE" * 1000)
    dist.barrier()
    seen["damaged"] = problem_of(lambda: verify_together(root / "good"))
    seen["missing"] = problem_of(lambda: verify_together(root / "nowhere"))
    (root / f"seen_{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
