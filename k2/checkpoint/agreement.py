"""All ranks decide together: a problem of one is raised by all of them, so that they end together with one message."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from k2.checkpoint.select import wrong_receipt
from k2.run.receipt import Receipt, check_files, read_receipt

T = TypeVar("T")


class AgreedProblem(ValueError):
    """A problem that all ranks raise together; one of them tells the user."""


def agree(problem: str | None, kind: type[AgreedProblem] = AgreedProblem) -> None:
    """Called by all ranks: raises `kind` on all of them when one has a problem, with the text of the first."""
    world = dist.get_world_size()
    first = torch.tensor([world if problem is None else dist.get_rank()], device=_device())
    dist.all_reduce(first, op=dist.ReduceOp.MIN)
    if int(first) < world:
        raise kind(_text_of(int(first), problem or ""))


def together(check: Callable[[], T]) -> T:
    """Called by all ranks: the value of `check`, or its `ValueError` as a problem of all."""
    try:
        value = check()
    except ValueError as error:
        agree(str(error))
        raise
    agree(None)
    return value


class HostsDiffer(OSError):
    """Ranks of several hosts do not see the same. Tried again it may be mended: a shared disk shows some files late."""


def same_everywhere(seen: Mapping[str, str]) -> None:
    """Called by all ranks, with what each sees under the same names: `HostsDiffer` on all of them where two see different things."""
    numbers = [int.from_bytes(hashlib.sha256(value.encode()).digest()[:4]) for value in seen.values()]
    largest = torch.tensor([*numbers, *(-number for number in numbers)], device=_device())  # the least, with another sign
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    ends = largest.reshape(2, -1)
    differing = [name for name, differs in zip(seen, (ends[0] != -ends[1]).tolist(), strict=True) if differs]
    if differing:
        raise HostsDiffer(f"the hosts differ in {', '.join(differing)}: all must have the same installed and see the same run directory")


def any_rank(flag: bool) -> bool:
    """Called by all ranks: whether the flag is up on one of them."""
    up = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(up, op=dist.ReduceOp.MAX)
    return bool(up)


def total(values: list[float]) -> list[float]:
    """Called by all ranks: the sums over them, in float64."""
    summed = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(summed)
    return [float(value) for value in summed]


def verify_together(folder: Path) -> Receipt:
    """Called by all ranks: the checkpoint's receipt after its files were digested again, each rank taking some of them."""
    receipt = together(lambda: read_receipt(folder))
    share = receipt.model_copy(update={"files": receipt.files[dist.get_rank() :: dist.get_world_size()]})
    wrong = wrong_receipt(receipt, folder.name) + check_files(folder, share)
    agree(f"checkpoint {folder.name} does not verify: {'; '.join(wrong)}; move it away and start from an older one" if wrong else None)
    return receipt


def _text_of(rank: int, text: str) -> str:
    """Called by all ranks: that rank's text. It travels as bytes: other hosts send it, and what they send is not unpickled."""
    content = text.encode("utf-8", "replace") if dist.get_rank() == rank else b""
    length = torch.tensor([len(content)], device=_device())
    dist.broadcast(length, rank)
    letters = torch.tensor(list(content.ljust(int(length))), dtype=torch.uint8, device=_device())
    dist.broadcast(letters, rank)
    return bytes(letters.tolist()).decode()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
