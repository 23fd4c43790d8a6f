"""The weights of a checkpoint by their Hugging Face names."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from k2.checkpoint.shard import STATE, Kind, Piece, shard_name, write_shard
from k2.checkpoint.state import StateReader


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Every weight of the model as the optimizer keeps it, in float32 on the CPU, whatever layout it was saved by.

    A bf16 run computes with them rounded to bfloat16. They belong to the stage of the checkpoint's receipt: its context and
    RoPE base go with them. `BrokenOutput` when something is missing.
    """
    with StateReader(checkpoint) as state:
        return {name: torch.from_numpy(state.whole(name).copy()) for name in state.names}


def write_weights_as_state(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Make the checkpoint folder's state of weights alone, as one shard: what an optimizer starts from."""
    state = folder / STATE
    state.mkdir(parents=True, exist_ok=True)
    kind: Kind = "master"
    numbers = [(_piece(name, tensor), {kind: _floats(tensor)}) for name, tensor in weights.items()]
    write_shard(state / shard_name(0), numbers, updates=0)


def _piece(name: str, tensor: Tensor) -> Piece:
    return Piece(name, tuple(tensor.shape), 0, tensor.numel())


def _floats(tensor: Tensor) -> memoryview:
    return tensor.detach().to(torch.float32).contiguous().view(-1).numpy().data
