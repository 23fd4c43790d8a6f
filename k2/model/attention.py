"""Causal self-attention and the rotation of queries and keys (RoPE).

What enters are projected heads, what leaves are mixed ones. flash-attn is used where it is installed and the
numbers are 16 bits wide on CUDA; otherwise torch's scaled dot-product attention. RoPE follows Su et al.
(arXiv 2104.09864) in the rotate-half form that Hugging Face's Llama uses.

Shapes: B samples, T positions, H heads, K head width.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional


def rotate(x_BTHK: Tensor, rope_base: float) -> Tensor:
    """Turn each pair of numbers by its position's angle. Computed in float32 whatever the type of `x`."""
    cos_TK, sin_TK = _angles(x_BTHK.shape[1], x_BTHK.shape[3], rope_base, x_BTHK.device)
    x = x_BTHK.float()
    first, second = x.chunk(2, dim=-1)
    turned = x * cos_TK[:, None, :] + torch.cat((-second, first), dim=-1) * sin_TK[:, None, :]
    return turned.to(x_BTHK.dtype)


def causal_attention(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor) -> Tensor:
    """Each position's mixture of the values up to itself."""
    if q_BTHK.is_cuda and q_BTHK.dtype in (torch.float16, torch.bfloat16) and find_spec("flash_attn") is not None:
        return _flash_attention()(q_BTHK, k_BTHK, v_BTHK)
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


@lru_cache(maxsize=8)
def _angles(positions: int, head_width: int, rope_base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines in float32. Never a buffer of a module: casting it to bfloat16 would turn late positions
    by the wrong angle (K2's own code lost precision so, §3.1)."""
    with torch.inference_mode(False), torch.no_grad():
        pairs = torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width
        angles_TK = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), 1.0 / rope_base**pairs)
        angles_TK = torch.cat((angles_TK, angles_TK), dim=-1)
        return angles_TK.cos(), angles_TK.sin()


@cache
def _flash_attention() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from flash_attn import flash_attn_func

    return lambda q, k, v: cast(Tensor, flash_attn_func(q, k, v, causal=True))
