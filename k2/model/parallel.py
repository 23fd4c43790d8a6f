"""Tensor and sequence parallelism: what the ranks that share one layer tell each other, forward and backward.

A column-parallel product takes the whole input and gives this rank's slice of the output; a row-parallel one takes a
slice and its outputs are summed over the ranks (Shoeybi et al., arXiv 1909.08053). With sequence parallelism the
residual stream between them is cut along the positions: gathered before the columns, summed and scattered after the rows
(Korthikanti et al., arXiv 2205.05198). Positions then come first, so that gathering and scattering copy nothing twice.
One rank alone computes plain torch, to the bit.

Shapes: B samples, T positions, D width, V vocabulary rows, n tensor ranks. A stream is [B, T, D], or [T/n, B, D]
with sequence parallelism.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

# torch 2.13 renamed them, and warns of the old names
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

IGNORED = -100  # a label that is no target


@dataclass(frozen=True)
class TensorRanks:
    """The ranks that hold slices of the same layers, seen from one of them."""

    group: dist.ProcessGroup | None = None
    size: int = 1
    rank: int = 0
    sequence_parallel: bool = False

    def slice_of(self, whole: Tensor, dimension: int | None) -> Tensor:
        """This rank's share of a tensor that all of them know."""
        return whole if dimension is None or self.size == 1 else whole.chunk(self.size, dimension)[self.rank].clone()


ALONE = TensorRanks()


def column_parallel(x: Tensor, weights: tuple[Tensor, ...], ranks: TensorRanks) -> tuple[Tensor, ...]:
    """`x @ w.T` for each weight that is cut along its outputs. The stream is gathered once for all of them."""
    if ranks.size == 1:
        return tuple(functional.linear(x, weight) for weight in weights)
    return cast(tuple[Tensor, ...], _ColumnParallel.apply(ranks, x, *weights))  # type: ignore[no-untyped-call]


def row_parallel(x: Tensor, weight: Tensor, ranks: TensorRanks) -> Tensor:
    """`x @ weight.T` for a weight that is cut along its inputs, as `x` is: a stream."""
    return summed(functional.linear(x, weight), ranks)


def summed(partial: Tensor, ranks: TensorRanks) -> Tensor:
    """The sum of every rank's part of a stream; with sequence parallelism this rank's positions of it."""
    if ranks.size == 1:
        return partial
    return cast(Tensor, _Summed.apply(ranks, partial))  # type: ignore[no-untyped-call]


def vocabulary_parallel_loss(logits_BTV: Tensor, labels_BT: Tensor, ranks: TensorRanks) -> Tensor:
    """Cross-entropy in nats, in float32, over the targets; each rank has the logits of its rows of the vocabulary."""
    return cast(Tensor, _VocabularyParallelLoss.apply(ranks, logits_BTV, labels_BT))  # type: ignore[no-untyped-call]


class _ColumnParallel(torch.autograd.Function):
    """Keeps this rank's positions only and gathers them again for the backward pass, behind the product that needs them not."""

    @staticmethod
    def forward(ctx: Any, ranks: TensorRanks, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        ctx.save_for_backward(x, *weights)
        whole, waiting = _gather(x, ranks)
        _wait(waiting)
        return tuple(functional.linear(whole, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        whole, gathering = _gather(x, ctx.ranks)
        to_x = gradients[0] @ weights[0]
        for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
            to_x += gradient @ weight
        to_x, summing = _sum(to_x, ctx.ranks)
        _wait(gathering)
        rows = whole.flatten(0, -2)
        to_weights = [gradient.flatten(0, -2).T @ rows for gradient in gradients]
        _wait(summing)
        return None, to_x, *to_weights


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: TensorRanks, partial: Tensor) -> Tensor:
        ctx.ranks = ranks
        if not ranks.sequence_parallel:
            ctx.mark_dirty(partial)
        stream, waiting = _sum(partial, ranks)
        _wait(waiting)
        return stream

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        whole, waiting = _gather(gradient, ctx.ranks)
        _wait(waiting)
        return None, whole


class _VocabularyParallelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: TensorRanks, logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
        scores = logits_BTV.float()
        highest = scores.amax(dim=-1)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=ranks.group)
        scores = scores - highest[..., None]
        rows = labels_BT - ranks.rank * scores.shape[-1]
        elsewhere = (rows < 0) | (rows >= scores.shape[-1])
        rows = rows.masked_fill(elsewhere, 0)
        of_label = scores.gather(-1, rows[..., None])[..., 0].masked_fill(elsewhere, 0.0)
        exponentials = scores.exp_()
        sums = torch.stack((exponentials.sum(dim=-1), of_label))
        dist.all_reduce(sums, group=ranks.group)
        is_target = labels_BT != IGNORED
        ctx.targets = is_target.sum()
        ctx.dtype = logits_BTV.dtype
        ctx.save_for_backward(exponentials.div_(sums[0][..., None]), rows, elsewhere, is_target)
        loss: Tensor = ((sums[0].log() - sums[1]) * is_target).sum() / ctx.targets
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        to_logits, rows, elsewhere, is_target = ctx.saved_tensors  # changed in place: a step goes backward once
        to_logits.scatter_add_(-1, rows[..., None], elsewhere[..., None].float() - 1.0)
        to_logits *= (is_target * (gradient / ctx.targets))[..., None]
        return None, to_logits.to(ctx.dtype), None


Waiting = dist.Work | None


def _gather(stream: Tensor, ranks: TensorRanks) -> tuple[Tensor, Waiting]:
    """The stream at all positions: what this rank has already, unless the sequence is cut."""
    if not ranks.sequence_parallel:
        return stream, None
    whole = stream.new_empty((stream.shape[0] * ranks.size, *stream.shape[1:]))
    return whole, _all_gather(whole, stream.contiguous(), group=ranks.group, async_op=True)


def _sum(partial: Tensor, ranks: TensorRanks) -> tuple[Tensor, Waiting]:
    if not ranks.sequence_parallel:
        return partial, dist.all_reduce(partial, group=ranks.group, async_op=True)
    own = partial.new_empty((partial.shape[0] // ranks.size, *partial.shape[1:]))
    return own, _reduce_scatter(own, partial.contiguous(), group=ranks.group, async_op=True)


def _wait(work: Waiting) -> None:
    if work is not None:
        work.wait()
