"""ZeRO 2 and 3 (Rajbhandari et al., arXiv 1910.02054): data ranks alone, which share out gradients, or weights too.

DeepSpeed's pipeline takes neither, so its plain engine trains: micro-batch after micro-batch, the update after the last.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from k2.checkpoint.placed import PlacedPiece
from k2.checkpoint.shard import Piece
from k2.checkpoint.state import StateReader
from k2.model.layers import PlainLlama
from k2.model.llama import DecoderBlock, mean_loss
from k2.recipe.schema import Recipe
from k2.train.optimizer_state import OptimizerState, names_of


def gathered_by_block(model: PlainLlama, recipe: Recipe) -> PlainLlama:
    """With ZeRO 3 the ranks gather a block's weights at once, and not each matrix when it is used."""
    if recipe.layout.zero_stage == 3:
        from deepspeed.utils import set_z3_leaf_modules

        set_z3_leaf_modules(model, [DecoderBlock])
    return model


def train_sharded(engine: Any, micro_batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """One step; the mean loss over all data ranks, on each of them."""
    losses = []
    for tokens_BT, labels_BT in micro_batches:
        loss = mean_loss(engine(tokens_BT), labels_BT)
        engine.backward(loss)
        engine.step()  # changes the weights after the last micro-batch only
        losses.append(loss.detach())
    mean = torch.stack(losses).mean()
    dist.all_reduce(mean)
    return mean / dist.get_world_size()


class ShardedWeights(OptimizerState):
    """The state with ZeRO 3: each parameter is cut into equal parts, one a rank, and a partition holds its rank's parts end to end."""

    def __init__(self, engine: Any, recipe: Recipe) -> None:
        zero = engine.optimizer
        self._adamw = engine.basic_optimizer
        self._masters = list(zero.fp32_partitioned_groups_flat)
        names = names_of(engine.module, recipe.model)
        self._parts: list[tuple[Any, Tensor, Piece]] = []  # a parameter, its rank's part of a master, all of it
        pieces = []
        for number, group in enumerate(zero.fp16_groups):
            offset = 0
            for parameter in group:
                share = parameter.partition_numel()
                whole = Piece(names[parameter], tuple(parameter.ds_shape), 0, parameter.ds_numel)
                length = min(
                    share, whole.length - dist.get_rank() * share
                )  # the last ranks' parts are filled up, or are nothing but filling
                if length > 0:
                    pieces.append(PlacedPiece(replace(whole, start=dist.get_rank() * share, length=length), number, offset))
                self._parts.append((parameter, self._masters[number].detach().narrow(0, offset, share), whole))
                offset += share
        self._pieces = tuple(pieces)

    @torch.no_grad()
    def restore(self, reader: StateReader) -> None:
        """Take over the numbers of a checkpoint, whatever layout it was saved by. `BrokenOutput` when it does not hold them all."""
        self._restore_optimizer(reader)
        for parameter, master, whole in self._parts:
            parameter.ds_tensor.copy_(master)
            if parameter.numel() == parameter.ds_numel:  # it stays gathered
                parameter.copy_(torch.from_numpy(reader.piece(whole, "master")).view_as(parameter))
