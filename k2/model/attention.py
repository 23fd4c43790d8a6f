"""Causal self-attention and the rotation of queries and keys (RoPE).

What enters are projected heads, what leaves are mixed ones. A position sees everything before it in its row, as K2 trained
(K2 §3.1), or its own document only. RoPE follows Su et al. (arXiv 2104.09864) in the rotate-half form that Hugging
Face's Llama uses.

Shapes: B samples, T positions, H heads, K head width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from k2.model.backend import Backend
from k2.recipe.schema import END_OF_DOCUMENT


def rotate(x_BTHK: Tensor, rope_base: float, positions_BT: Tensor | None = None) -> Tensor:
    """Turn each pair of numbers by its position's angle: that in the row, or as given. In float32 whatever the type of `x`."""
    cos, sin = _angles(x_BTHK.shape[1], x_BTHK.shape[3], rope_base, x_BTHK.device)
    if positions_BT is not None:
        cos, sin = cos[positions_BT], sin[positions_BT]
    x = x_BTHK.float()
    first, second = x.chunk(2, dim=-1)
    turned = x * cos[..., None, :] + torch.cat((-second, first), dim=-1) * sin[..., None, :]
    return turned.to(x_BTHK.dtype)


def causal_attention(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, backend: Backend = "sdpa") -> Tensor:
    """Each position's mixture of the values up to itself."""
    if backend == "flash":
        return _flash_attention()(q_BTHK, k_BTHK, v_BTHK)
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    if backend == "sdpa":
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    with _cudnn_first():
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def attention_in_documents(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, starts_BT: Tensor) -> Tensor:
    """Each position's mixture of the values of its own document up to itself."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    before_TT = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    seen_BTT = before_TT & (starts_BT[:, :, None] == starts_BT[:, None, :])
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen_BTT[:, None]).transpose(1, 2)


def document_starts(tokens_BT: Tensor) -> Tensor:
    """For each position where in its row its document begins: after the last end of a document, or at 0."""
    places = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
    after_an_end_BT = functional.pad(tokens_BT[:, :-1] == END_OF_DOCUMENT, (1, 0))
    return (places * after_an_end_BT).cummax(dim=1).values.int()


@lru_cache(maxsize=8)
def _angles(positions: int, head_width: int, rope_base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines in float32. Never a buffer of a module: casting it to bfloat16 would turn late positions
    by the wrong angle (K2's own code lost precision so, §3.1)."""
    with torch.inference_mode(False), torch.no_grad():
        pairs = torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width
        angles_TK = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), 1.0 / rope_base**pairs)
        angles_TK = torch.cat((angles_TK, angles_TK), dim=-1)
        return angles_TK.cos(), angles_TK.sin()


def _cudnn_first() -> AbstractContextManager[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return cast(AbstractContextManager[None], sdpa_kernel(order, set_priority=True))


@cache
def _flash_attention() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from flash_attn import flash_attn_func

    return lambda q, k, v: cast(Tensor, flash_attn_func(q, k, v, causal=True))
