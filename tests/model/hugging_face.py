"""Hugging Face's Llama of the shape of a recipe's model: the independent reference."""

import torch

from k2.recipe.schema import Model


def hugging_face_llama(model: Model, rope_base: float, context: int) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=model.vocab_rows,
        hidden_size=model.hidden,
        intermediate_size=model.ffn,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        rms_norm_eps=model.norm_eps,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": rope_base},
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()
