"""The LLaMA model as plain torch modules: what the pipeline trains and what one process can run whole.

Token ids enter, logits leave; the loss compares them with the next token of the same row. Module names are those of
Hugging Face's `LlamaForCausalLM`, so exporting a weight is a prefix (see `layers`). Every weight is drawn from a seed
of its own name and for the full tensor, so that every parallel layout starts as the same model.

Shapes: B samples, T positions, D width, H heads, K head width, F MLP width, V vocabulary rows.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from k2.model.attention import causal_attention, rotate
from k2.recipe.schema import Model

IGNORED = -100  # a label that is no target


@dataclass(frozen=True)
class Shape:
    """What a module needs to be built: the model, the stage's RoPE base, the seed of the weights."""

    model: Model
    rope_base: float
    seed: int

    @property
    def output_std(self) -> float:
        """Of the projections that write into the residual stream: smaller, as there are two a layer (K2 §3.1)."""
        return self.model.init_std / math.sqrt(2 * self.model.layers)


class Embedding(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        model = shape.model
        self.weight = _drawn(shape, "embed", (model.vocab_rows, model.hidden), model.init_std)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return functional.embedding(tokens_BT, self.weight)


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


class Projection(nn.Module):
    """A matrix without bias."""

    def __init__(self, shape: Shape, name: str, size: tuple[int, int], std: float) -> None:
        super().__init__()
        self.weight = _drawn(shape, name, size, std)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class SelfAttention(nn.Module):
    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        model, square = shape.model, (shape.model.hidden, shape.model.hidden)
        self.heads, self.rope_base = model.heads, shape.rope_base
        self.q_proj = Projection(shape, f"{name}.q", square, model.init_std)
        self.k_proj = Projection(shape, f"{name}.k", square, model.init_std)
        self.v_proj = Projection(shape, f"{name}.v", square, model.init_std)
        self.o_proj = Projection(shape, f"{name}.o", square, shape.output_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = (projection(x_BTD).unflatten(-1, (self.heads, -1)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        mixed_BTHK = causal_attention(rotate(q, self.rope_base), rotate(k, self.rope_base), v)
        output: Tensor = self.o_proj(mixed_BTHK.flatten(-2))
        return output


class SwiGLU(nn.Module):
    """The gated MLP (Shazeer, arXiv 2002.05202)."""

    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__()
        model = shape.model
        self.gate_proj = Projection(shape, f"{name}.gate", (model.ffn, model.hidden), model.init_std)
        self.up_proj = Projection(shape, f"{name}.up", (model.ffn, model.hidden), model.init_std)
        self.down_proj = Projection(shape, f"{name}.down", (model.hidden, model.ffn), shape.output_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gated_BTF = functional.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)
        output: Tensor = self.down_proj(gated_BTF)
        return output


class DecoderBlock(nn.Module):
    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape)
        self.self_attn = SelfAttention(shape, f"block{number}")
        self.post_attention_layernorm = RMSNorm(shape)
        self.mlp = SwiGLU(shape, f"block{number}")

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD))
        output: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return output


class Head(Projection):
    """From width to logits; not tied to the embedding (K2 §3.1)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, "head", (shape.model.vocab_rows, shape.model.hidden), shape.model.init_std)


def next_tokens(tokens_BT: Tensor) -> Tensor:
    """The labels of each row: its next token. The last position has none: a row holds T-1 targets (K2 §2)."""
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    labels_BT[:, :-1] = tokens_BT[:, 1:]
    return labels_BT


def mean_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross-entropy in nats, in float32, over the targets of the micro-batch. Rows hold equally many, so means of means agree."""
    return functional.cross_entropy(logits_BTV.float().flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)


def _drawn(shape: Shape, name: str, size: tuple[int, int], std: float) -> nn.Parameter:
    digest = hashlib.sha256(f"{shape.seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return nn.Parameter(torch.randn(size, generator=generator) * std)
