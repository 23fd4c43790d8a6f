"""The LLaMA model as plain torch modules: what the pipeline trains and what one process can run whole.

Token ids enter, logits leave; the loss compares them with the next token of the same row. Module names are those of
Hugging Face's `LlamaForCausalLM`, so exporting a weight is a prefix (see `layers`). Every weight is drawn from a seed
of its own name and for the full tensor, of which a tensor rank keeps its slice, so that every layout starts as the
same model.

Shapes: B samples, T positions, D width, H heads, K head width, F MLP width, V vocabulary rows. With n tensor ranks
H, F and V are a rank's n-th part of the model's; with sequence parallelism a stream is [T/n, B, D] (see `parallel`).
Where attention is kept to documents, what runs from layer to layer is the stream and where each document begins.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from k2.model.attention import attention_in_documents, causal_attention, document_starts, rotate
from k2.model.backend import Backend
from k2.model.parallel import ALONE, IGNORED, TensorRanks, column_parallel, row_parallel, summed, vocabulary_parallel_loss
from k2.model.split import split_dimension
from k2.recipe.schema import AttentionSpan, Model, Recompute


@dataclass(frozen=True)
class Shape:
    """What a module needs to be built: the model, the stage's RoPE base, the seed of the weights, and who else holds slices."""

    model: Model
    rope_base: float
    seed: int
    ranks: TensorRanks = ALONE
    recompute: Recompute = "none"
    span: AttentionSpan = "row"
    backend: Backend = "sdpa"

    @property
    def output_std(self) -> float:
        """Of the projections that write into the residual stream: smaller, as there are two a layer (K2 §3.1)."""
        return self.model.init_std / math.sqrt(2 * self.model.layers)


Stream = Tensor | tuple[Tensor, Tensor]  # x, or x and starts_BT


class Embedding(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        model = shape.model
        self.ranks, self.span = shape.ranks, shape.span
        self.weight = _drawn(shape, "embed", "embed_tokens", (model.vocab_rows, model.hidden), model.init_std)

    def forward(self, tokens_BT: Tensor) -> Stream:
        x = self._embedded(tokens_BT)
        return (x, document_starts(tokens_BT)) if self.span == "document" else x

    def _embedded(self, tokens_BT: Tensor) -> Tensor:
        if self.ranks.size == 1:
            return functional.embedding(tokens_BT, self.weight)
        rows = (tokens_BT.T if self.ranks.sequence_parallel else tokens_BT) - self.ranks.rank * self.weight.shape[0]
        elsewhere = (rows < 0) | (rows >= self.weight.shape[0])
        found = functional.embedding(rows.masked_fill(elsewhere, 0), self.weight)
        return summed(found.masked_fill(elsewhere[..., None], 0.0), self.ranks)


class RMSNorm(nn.Module):
    """Divides by the root mean square, in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.model.hidden))
        self.eps = shape.model.norm_eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return functional.rms_norm(x_BTD.float(), self.weight.shape, self.weight.float(), self.eps).to(x_BTD.dtype)


class FinalNorm(RMSNorm):
    """The norm before the head: a class of its own, as the pipeline is cut by class name."""

    def forward(self, stream: Stream) -> Tensor:
        return super().forward(stream if isinstance(stream, Tensor) else stream[0])


class Projection(nn.Module):
    """A matrix without bias, or this rank's slice of it: what multiplies is `column_parallel` or `row_parallel`."""

    def __init__(self, shape: Shape, block: str, part: str, size: tuple[int, int], std: float) -> None:
        super().__init__()
        self.weight = _drawn(shape, f"{block}.{part.removesuffix('_proj')}", part, size, std)


class SelfAttention(nn.Module):
    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        model, square = shape.model, (shape.model.hidden, shape.model.hidden)
        self.head_width, self.rope_base, self.ranks, self.backend = model.head_width, shape.rope_base, shape.ranks, shape.backend
        self.q_proj = Projection(shape, name, "q_proj", square, model.init_std)
        self.k_proj = Projection(shape, name, "k_proj", square, model.init_std)
        self.v_proj = Projection(shape, name, "v_proj", square, model.init_std)
        self.o_proj = Projection(shape, name, "o_proj", square, shape.output_std)

    def forward(self, x: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        weights = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        q, k, v = (self._heads(y) for y in column_parallel(x, weights, self.ranks))
        mixed_BTHK = self._mixed(q, k, v, starts_BT)
        mixed = mixed_BTHK.transpose(0, 1) if self.ranks.sequence_parallel else mixed_BTHK
        return row_parallel(mixed.flatten(-2), self.o_proj.weight, self.ranks)

    def _mixed(self, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, starts_BT: Tensor | None) -> Tensor:
        if starts_BT is None:
            return causal_attention(rotate(q_BTHK, self.rope_base), rotate(k_BTHK, self.rope_base), v_BTHK, self.backend)
        positions_BT = torch.arange(starts_BT.shape[1], device=starts_BT.device) - starts_BT
        q, k = (rotate(x, self.rope_base, positions_BT) for x in (q_BTHK, k_BTHK))
        return attention_in_documents(q, k, v_BTHK, starts_BT)

    def _heads(self, y: Tensor) -> Tensor:
        """[B, T, H, K] of a projection's output."""
        y = y.view(*y.shape[:-1], -1, self.head_width)
        return y.transpose(0, 1) if self.ranks.sequence_parallel else y


class SwiGLU(nn.Module):
    """The gated MLP (Shazeer, arXiv 2002.05202). Selective recomputation keeps gate and up, and not their product."""

    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        model = shape.model
        self.ranks, self.recompute = shape.ranks, shape.recompute
        self.gate_proj = Projection(shape, name, "gate_proj", (model.ffn, model.hidden), model.init_std)
        self.up_proj = Projection(shape, name, "up_proj", (model.ffn, model.hidden), model.init_std)
        self.down_proj = Projection(shape, name, "down_proj", (model.hidden, model.ffn), shape.output_std)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = column_parallel(x, (self.gate_proj.weight, self.up_proj.weight), self.ranks)
        return _recomputed(self._down, gate, up) if self.recompute == "selective" else self._down(gate, up)

    def _down(self, gate: Tensor, up: Tensor) -> Tensor:
        return row_parallel(functional.silu(gate) * up, self.down_proj.weight, self.ranks)


class DecoderBlock(nn.Module):
    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.recompute = shape.recompute
        self.input_layernorm = RMSNorm(shape)
        self.self_attn = SelfAttention(shape, f"block{number}")
        self.post_attention_layernorm = RMSNorm(shape)
        self.mlp = SwiGLU(shape, f"block{number}")

    def forward(self, stream: Stream) -> Stream:
        if isinstance(stream, Tensor):
            return self._layer(stream)
        x, starts_BT = stream
        return self._layer(x, starts_BT), starts_BT

    def _layer(self, *inputs: Tensor) -> Tensor:
        return _recomputed(self._block, *inputs) if self.recompute == "full" else self._block(*inputs)

    def _block(self, x: Tensor, *starts_BT: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *starts_BT)
        output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return output


class Head(nn.Module):
    """From width to logits; not tied to the embedding (K2 §3.1). Each tensor rank gives those of its rows of the vocabulary."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.ranks = shape.ranks
        self.weight = _drawn(shape, "head", "lm_head", (shape.model.vocab_rows, shape.model.hidden), shape.model.init_std)

    def forward(self, x: Tensor) -> Tensor:
        (logits,) = column_parallel(x, (self.weight,), self.ranks)
        return logits.transpose(0, 1) if self.ranks.sequence_parallel else logits


def next_tokens(tokens_BT: Tensor) -> Tensor:
    """The labels of each row: its next token. The last position has none: a row holds T-1 targets (K2 §2)."""
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    labels_BT[:, :-1] = tokens_BT[:, 1:]
    return labels_BT


def mean_loss(logits_BTV: Tensor, labels_BT: Tensor, ranks: TensorRanks = ALONE) -> Tensor:
    """Cross-entropy in nats, in float32, over the targets of the micro-batch. Rows hold equally many, so means of means agree."""
    if ranks.size > 1:
        return vocabulary_parallel_loss(logits_BTV, labels_BT, ranks)
    return functional.cross_entropy(logits_BTV.float().flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Keep the inputs only and compute again for the backward pass, as far as it asks. Nothing here draws random numbers."""
    output: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return output


def _drawn(shape: Shape, name: str, module: str, size: tuple[int, int], std: float) -> nn.Parameter:
    """A weight from the seed of its name, or this rank's slice; marked, so that a norm counts slices on all ranks and copies on one."""
    digest = hashlib.sha256(f"{shape.seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    whole = torch.randn(size, generator=generator) * std
    parameter = nn.Parameter(shape.ranks.slice_of(whole, split_dimension(module)))
    parameter.tensor_model_parallel = shape.ranks.size > 1  # type: ignore[attr-defined]  # DeepSpeed reads it
    return parameter
