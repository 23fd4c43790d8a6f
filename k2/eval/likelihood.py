"""Log-likelihoods of continuations, from a Hugging Face causal model and token ids.

Enters: a `LlamaForCausalLM` and pairs of context and continuation. Leaves: for each the sum of log-probabilities in nats, and
whether greedy decoding would have said the same. Only the positions that are asked for reach the head; options that share a context
are laid behind it side by side, each seeing the context and itself (a tree mask), so that the context is computed once.

Shapes: B rows, T positions, D width, V vocabulary rows, P all positions of a batch, N asked tokens, U positions asked at least once,
C and M of them at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

Ids = tuple[int, ...]
_TOKENS_PER_BATCH = 1024  # measured fastest for a million parameters on one core: activations stay in its cache


_POSITIONS_AT_ONCE = 128  # measured best of 16 to 640 for 32,032 rows of vocabulary: a third less than all at once
_PAIRS_A_POSITION = 512  # what a position's weights cost, in pairs: six times the width of a small model; a larger one shares more


@dataclass(frozen=True)
class Request:
    """How likely is `continuation` after `context`? Neither is empty."""

    context: Ids
    continuation: Ids


@dataclass(frozen=True)
class Likelihood:
    nats: float  # sum of log-probabilities, at most 0
    greedy: bool


@dataclass(frozen=True)
class Tree:
    """One context and the continuations asked for after it, with the positions of their requests."""

    context: Ids
    branches: tuple[tuple[int, Ids], ...]

    @property
    def length(self) -> int:
        """Input positions: a continuation's last token is only predicted."""
        return len(self.context) + sum(len(ids) - 1 for _, ids in self.branches)


def likelihoods(model: Any, requests: Sequence[Request], max_length: int) -> list[Likelihood]:
    """One answer a request, in order. What exceeds `max_length` is cut from the left, as lm-eval does."""
    answers: dict[int, Likelihood] = {}
    for batch in batches(trees(requests, max_length), _TOKENS_PER_BATCH):
        answers.update(_score(model, batch))
    return [answers[i] for i in range(len(requests))]


def trees(requests: Sequence[Request], max_length: int) -> list[Tree]:
    """The requests grouped by what is left of their contexts after cutting. `ValueError` for a continuation that cannot fit."""
    by_context: dict[Ids, list[tuple[int, Ids]]] = {}
    for position, request in enumerate(requests):
        if not request.context or not 0 < len(request.continuation) <= max_length:
            raise ValueError(
                f"a request of {len(request.context)} context and {len(request.continuation)} continuation tokens cannot be scored: the "
                f"context needs at least one, the continuation between one and the model's {max_length}"
            )
        kept = max_length + 1 - len(request.continuation)
        by_context.setdefault(request.context[-kept:], []).append((position, request.continuation))
    return [tree for context, branches in by_context.items() for tree in _grow(context, branches)]


def _grow(context: Ids, branches: Sequence[tuple[int, Ids]]) -> Iterator[Tree]:
    """Trees that take up a branch as long as that costs less than a tree of its own."""
    taken: list[tuple[int, Ids]] = []
    for branch in branches:
        joined = Tree(context, (*taken, branch))
        if taken and _cost(joined) > _cost(Tree(context, tuple(taken))) + _cost(Tree(context, (branch,))):
            yield Tree(context, tuple(taken))
            taken = []
        taken.append(branch)
    yield Tree(context, tuple(taken))


def _cost(tree: Tree) -> int:
    """In units of one pair of positions in attention: each position costs its weights, and meets every other."""
    return tree.length * (_PAIRS_A_POSITION + tree.length)


def batches(forest: Sequence[Tree], tokens: int) -> Iterator[list[Tree]]:
    """Trees of similar length together, at most `tokens` padded positions a batch, at least one tree."""
    batch: list[Tree] = []
    for tree in sorted(forest, key=lambda t: t.length):
        if batch and tree.length * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


@torch.inference_mode()
def _score(model: Any, batch: Sequence[Tree]) -> dict[int, Likelihood]:
    width = max(tree.length for tree in batch)
    hidden_BTD = _hidden(model, batch, width)
    asked = torch.tensor([row * width + place for row, tree in enumerate(batch) for place in _asked(tree)], device=model.device)
    targets_N = torch.tensor([token for tree in batch for _, ids in tree.branches for token in ids], device=model.device)
    nats_N, greedy_N = _read_head(model, hidden_BTD.flatten(0, 1), asked, targets_N)
    branches = [branch for tree in batch for branch in tree.branches]
    sizes = [len(ids) for _, ids in branches]
    parts = zip(branches, torch.split(nats_N.cpu(), sizes), torch.split(greedy_N.cpu(), sizes), strict=True)
    return {position: Likelihood(float(nats.sum()), bool(greedy.all())) for (position, _), nats, greedy in parts}


def _read_head(model: Any, hidden_PD: Tensor, asked_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target at its position, and whether it is the likeliest there. The head is asked once a position, however
    many options begin there, and for few positions at a time: their logits stay in a core's cache."""
    positions_U, turn_N = torch.unique(asked_N, return_inverse=True)
    nats_N = torch.empty(len(asked_N), device=hidden_PD.device)
    greedy_N = torch.empty(len(asked_N), dtype=torch.bool, device=hidden_PD.device)
    for start in range(0, len(positions_U), _POSITIONS_AT_ONCE):
        here_N = (turn_N >= start) & (turn_N < start + _POSITIONS_AT_ONCE)
        logits_CV = model.lm_head(hidden_PD[positions_U[start : start + _POSITIONS_AT_ONCE]]).float()
        rows_M, targets_M = turn_N[here_N] - start, targets_N[here_N]
        nats_N[here_N] = logits_CV.log_softmax(-1)[rows_M, targets_M]
        greedy_N[here_N] = logits_CV[rows_M, targets_M] == logits_CV.amax(-1)[rows_M]
    return nats_N, greedy_N


def _hidden(model: Any, batch: Sequence[Tree], width: int) -> Tensor:
    """The last hidden states of the trees, each laid in one padded row."""
    ids_BT = torch.tensor([_padded(_ids(tree), width) for tree in batch], device=model.device)
    if all(len(tree.branches) == 1 for tree in batch):  # one line each: plain causal attention, which is faster, never sees the padding
        return cast(Tensor, model.model(input_ids=ids_BT, use_cache=False)[0])
    positions_BT = torch.tensor([_padded(_positions(tree), width) for tree in batch], device=model.device)
    mask_B1TT = torch.stack([_mask(tree, width) for tree in batch])[:, None].to(model.device)
    return cast(Tensor, model.model(input_ids=ids_BT, position_ids=positions_BT, attention_mask=mask_B1TT, use_cache=False)[0])


def _ids(tree: Tree) -> list[int]:
    return [*tree.context, *(token for _, continuation in tree.branches for token in continuation[:-1])]


def _positions(tree: Tree) -> list[int]:
    """Each token's distance from the start: every branch goes on from the context."""
    root = len(tree.context)
    return [*range(root), *(root + i for _, continuation in tree.branches for i in range(len(continuation) - 1))]


def _padded(numbers: list[int], width: int) -> list[int]:
    return numbers + [0] * (width - len(numbers))


def _mask(tree: Tree, width: int) -> Tensor:
    """The context sees itself backwards, a branch the context and itself, and padding only itself."""
    mask_TT = torch.eye(width, dtype=torch.bool)
    root = start = len(tree.context)
    mask_TT[:root, :root] = torch.ones(root, root, dtype=torch.bool).tril()
    for _, continuation in tree.branches:
        end = start + len(continuation) - 1
        mask_TT[start:end, :root] = True
        mask_TT[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        start = end
    return mask_TT


def _asked(tree: Tree) -> Iterator[int]:
    """The positions whose predictions are the branches' tokens, in the branches' order."""
    start = len(tree.context)
    for _, ids in tree.branches:
        yield len(tree.context) - 1
        yield from range(start, start + len(ids) - 1)
        start += len(ids) - 1
