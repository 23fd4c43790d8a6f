"""The weights of a checkpoint by their Hugging Face names, read from the layer files that the engine wrote.

Nothing but tensors is unpickled. Verify the checkpoint first (`select.verify`): this reads what is there.
"""

from pathlib import Path

import torch
from torch import Tensor

from k2.checkpoint.commit import STATE
from k2.model.layers import layer_prefixes
from k2.model.split import split_dimension
from k2.recipe.schema import Model
from k2.run.receipt import BrokenOutput


def read_weights(checkpoint: Path, model: Model) -> dict[str, Tensor]:
    """Every weight of the model, in the type it was trained in (float32, or bfloat16 for a bf16 run), on the CPU.

    They belong to the stage of the checkpoint's receipt: its context and RoPE base go with them.
    """
    return {
        name: tensor for index, prefix in enumerate(layer_prefixes(model)) for name, tensor in _layer(checkpoint, index, prefix).items()
    }


def _layer(checkpoint: Path, index: int, prefix: str) -> dict[str, Tensor]:
    """One layer's weights; slices of several tensor ranks are joined."""
    found = sorted((checkpoint / STATE).glob(f"layer_{index:02d}-model_*-model_states.pt"))
    if not found:
        raise BrokenOutput(
            f"{checkpoint / STATE} has no file of layer_{index:02d}: checkpoint {checkpoint.name} is damaged or of another model; "
            "verify it and use another one"
        )
    slices = [torch.load(path, map_location="cpu", weights_only=True) for path in found]
    return {prefix + name: _joined(prefix + name, [part[name] for part in slices]) for name in slices[0]}


def _joined(name: str, slices: list[Tensor]) -> Tensor:
    dimension = split_dimension(name)
    return slices[0] if dimension is None or len(slices) == 1 else torch.cat(slices, dimension)
