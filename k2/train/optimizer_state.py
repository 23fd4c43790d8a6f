"""What one rank holds of the training state, as named pieces: DeepSpeed's flat float32 partitions, and the way back.

DeepSpeed cuts all parameters of a group, laid end to end, into equal partitions, one a data rank; weights, moments and step
counter of AdamW belong to such a partition. Here each partition is told apart again into pieces of parameters, so that a
checkpoint knows parameters and no layout. In bf16 and in fp32 the float32 partition is the state; the module's own weights
follow from it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from k2.checkpoint.placed import PlacedPiece, TrainingState
from k2.checkpoint.shard import MOMENTS, Kind, Piece, Slice
from k2.checkpoint.state import StateReader
from k2.model.layers import layer_prefixes
from k2.model.split import split_dimension
from k2.recipe.schema import Model, Recipe


class OptimizerState:
    """The state of DeepSpeed's optimizer over AdamW on this rank (`BF16_Optimizer`, or ZeRO 1 and 2)."""

    def __init__(self, engine: Any, recipe: Recipe) -> None:
        zero = engine.optimizer
        self._adamw: torch.optim.Optimizer = engine.basic_optimizer
        self._masters: list[Tensor] = getattr(zero, "fp32_groups_flat_partition", None) or zero.single_partition_of_fp32_groups
        groups: list[list[nn.Parameter]] = getattr(zero, "bf16_groups", None) or zero.bit16_groups
        names = names_of(engine.module, recipe.model)
        tensor = engine.grid.get_slice_parallel_rank() if recipe.layout.zero_stage == 1 else 0, recipe.layout.tensor
        self._whole = [(p, _whole_run(names[p], p, tensor)) for group in groups for p in group]
        self._pieces = tuple(
            _placed(p, _whole_run(names[p], p, tensor), number, tensor[0] == 0 or split_dimension(names[p]) is not None)
            for number, group in enumerate(groups)
            for p in group
            if p._hp_mapping is not None  # type: ignore[attr-defined]  # else it lies wholly in other data ranks' partitions
        )

    def live(self) -> TrainingState:
        """The numbers as they stand."""
        states = [self._adamw.state.get(master, {}) for master in self._masters]
        updates = {int(state["step"]) if state else 0 for state in states}
        assert len(updates) == 1, f"the optimizer's groups were updated {sorted(updates)} times"
        partitions: dict[Kind, Sequence[Tensor]] = {"master": [master.detach() for master in self._masters]}
        if all(states):
            partitions |= {kind: [state[kind] for state in states] for kind in MOMENTS}
        return TrainingState(self._pieces, partitions, updates.pop())

    @torch.no_grad()
    def restore(self, reader: StateReader) -> None:
        """Take over the numbers of a checkpoint, whatever layout it was saved by. `BrokenOutput` when it does not hold them all."""
        for parameter, whole in self._whole:
            parameter.copy_(torch.from_numpy(reader.piece(whole, "master")).view_as(parameter))
        self._restore_optimizer(reader)

    @torch.no_grad()
    def damage(self, way: Literal["lose", "zero", "reset"]) -> None:
        """Lose the optimizer's state, zero its moments, or set its counter to nothing."""
        if way == "lose":
            self._adamw.state.clear()
        for state in self._adamw.state.values():
            for name in MOMENTS if way == "zero" else ("step",):
                state[name].zero_()

    def _restore_optimizer(self, reader: StateReader) -> None:
        self._fill("master", self._masters, reader)
        self._adamw.state.clear()
        if reader.has_moments:
            self._restore_moments(reader)

    def _restore_moments(self, reader: StateReader) -> None:
        for kind in MOMENTS:
            moments = [torch.zeros_like(master) for master in self._masters]
            self._fill(kind, moments, reader)
            for master, moment in zip(self._masters, moments, strict=True):
                self._adamw.state[master][kind] = moment
        for master in self._masters:
            self._adamw.state[master]["step"] = torch.tensor(float(reader.updates), device=master.device)

    def _fill(self, kind: Kind, partitions: Sequence[Tensor], reader: StateReader) -> None:
        for placed in self._pieces:
            target = partitions[placed.partition].detach().narrow(0, placed.offset, placed.piece.length)
            target.copy_(torch.from_numpy(reader.piece(placed.piece, kind)))


def names_of(module: nn.Module, model: Model) -> dict[nn.Parameter, str]:
    """Hugging Face's names; the pipeline calls a layer by its number in the list, and so does the whole model among its layers."""
    prefixes = layer_prefixes(model)
    found = {}
    for name, parameter in module.named_parameters():
        number, _, rest = name.removeprefix("layers.").partition(".")
        found[parameter] = prefixes[int(number)] + rest
    return found


def _whole_run(name: str, parameter: nn.Parameter, tensor: tuple[int, int]) -> Piece:
    """All of what this rank computes with of the parameter: the slice of this tensor rank, of so many."""
    rank, ranks = tensor
    axis = split_dimension(name)
    if axis is None or ranks == 1:
        return Piece(name, tuple(parameter.shape), 0, parameter.numel(), Slice())
    whole = tuple(size * ranks if dimension == axis else size for dimension, size in enumerate(parameter.shape))
    return Piece(name, whole, 0, parameter.numel(), Slice(axis, rank, ranks))


def _placed(parameter: nn.Parameter, whole: Piece, partition: int, counted: bool) -> PlacedPiece:
    """What of the parameter lies in this data rank's partition, and where."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    run = mapping.lp_fragment_address
    piece = replace(whole, start=run.start, length=run.numel)
    return PlacedPiece(piece, partition, mapping.hp_fragment_address.start, counted)
