"""How tensor parallelism cuts each parameter: the one table, read by the model that slices and by whatever joins slices again.

Torch-free. What enters is a parameter's module as Hugging Face's Llama names it, what leaves is the dimension that is
cut into equal, contiguous slices, one a tensor rank (Shoeybi et al., arXiv 1909.08053, §3). Weights are `[out, in]`.
"""

_DIMENSIONS = {
    "embed_tokens": 0,  # vocabulary rows
    "q_proj": 0,  # heads
    "k_proj": 0,
    "v_proj": 0,
    "o_proj": 1,
    "gate_proj": 0,  # MLP width
    "up_proj": 0,
    "down_proj": 1,
    "lm_head": 0,  # vocabulary rows
    "input_layernorm": None,
    "post_attention_layernorm": None,
    "norm": None,
}


def split_dimension(parameter: str) -> int | None:
    """Along which dimension tensor ranks hold slices of a parameter (`model.layers.3.mlp.up_proj.weight`); none: each has it whole."""
    module = parameter.removesuffix(".weight").rpartition(".")[2]
    return _DIMENSIONS[module]
