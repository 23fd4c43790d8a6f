"""The commit of a checkpoint by all ranks: written beside, digested, receipt last, synced, renamed.

Only the rename makes it exist; a crash or a full disk at any point before leaves a hidden folder that nobody reads.
A problem of one rank is agreed upon by all of them, so that they end together with one message.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from k2.run.durable import commit_folder, open_beside
from k2.run.receipt import Receipt, check_files, read_receipt, seal_folder

T = TypeVar("T")
STATE = "state"  # the folder in a checkpoint that the engine fills


class AgreedProblem(ValueError):
    """A problem that all ranks raise together; one of them tells the user."""


def agree(problem: str | None) -> None:
    """Called by all ranks: raises `AgreedProblem` on all of them when one has a problem, with the text of the first."""
    world = dist.get_world_size()
    first = torch.tensor([world if problem is None else dist.get_rank()], device=_device())
    dist.all_reduce(first, op=dist.ReduceOp.MIN)
    if int(first) < world:
        text = [problem]
        dist.broadcast_object_list(text, src=int(first))
        raise AgreedProblem(text[0])


def together(check: Callable[[], T]) -> T:
    """Called by all ranks: the value of `check`, or its `ValueError` as a problem of all."""
    try:
        value = check()
    except ValueError as error:
        agree(str(error))
        raise
    agree(None)
    return value


def any_rank(flag: bool) -> bool:
    """Called by all ranks: whether the flag is up on one of them."""
    up = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(up, op=dist.ReduceOp.MAX)
    return bool(up)


def commit_checkpoint(target: Path, receipt: Receipt, write_state: Callable[[Path], str | None]) -> None:
    """Called by all ranks: save to `target`. `write_state` writes this rank's files and says what went wrong.

    `receipt` comes without its files. `AgreedProblem` when it cannot be saved; then nothing of it is left.
    """
    beside = _folder_beside(target)
    try:
        problem = write_state(beside / STATE)
        agree(_cannot_save(target, problem) if problem else None)
        agree(_seal(beside, target, receipt) if dist.get_rank() == 0 else None)
    except AgreedProblem:
        if dist.get_rank() == 0:
            shutil.rmtree(beside, ignore_errors=True)
        raise


def verify_together(folder: Path) -> Receipt:
    """Called by all ranks: the checkpoint's receipt after its files were digested again, each rank taking some of them."""
    receipt = together(lambda: read_receipt(folder))
    share = receipt.model_copy(update={"files": receipt.files[dist.get_rank() :: dist.get_world_size()]})
    wrong = check_files(folder, share)
    agree(f"checkpoint {folder.name} does not verify: {'; '.join(wrong)}; move it away and start from an older one" if wrong else None)
    return receipt


def _folder_beside(target: Path) -> Path:
    made: list[str | None] = [None]
    problem = None
    if dist.get_rank() == 0:
        try:
            beside = open_beside(target)
            (beside / STATE).mkdir()
            made = [str(beside)]
        except OSError as error:
            problem = _cannot_save(target, error)
    agree(problem)
    dist.broadcast_object_list(made, src=0)
    assert made[0] is not None
    return Path(made[0])


def _seal(beside: Path, target: Path, receipt: Receipt) -> str | None:
    try:
        seal_folder(beside, receipt)
        commit_folder(beside, target)
    except OSError as error:
        return _cannot_save(target, error)
    return None


def _cannot_save(target: Path, error: OSError | str) -> str:
    return f"checkpoint {target.name} could not be saved: {error}. The earlier checkpoints are untouched; make room and resume the run"


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
