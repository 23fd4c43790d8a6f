"""How many parameters the LLaMA shape has, part by part, and what a token of training costs in FLOPs.

Torch-free: a recipe's `Model` enters, integers leave. The conventions of the field differ by 16 % at a context of
8,192, so each can be asked for: 6 a parameter alone, or with the products of attention, of which a causal mask
leaves 6 L h s (Megatron) and the whole square has 12 L h s (PaLM, appendix B).
"""

from dataclasses import dataclass
from typing import Literal

from k2.recipe.schema import Model

Attention = Literal["uncounted", "causal", "full"]  # which of attention's own products count as useful work


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part. The embeddings are untied: `head` is as large as `embedding`."""

    embedding: int
    attention: int  # of one layer: query, key, value, output
    mlp: int  # of one layer: gate, up, down
    norms: int  # of one layer
    layers: int  # how many
    final_norm: int
    head: int

    @property
    def layer(self) -> int:
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        return self.without_embedding + self.embedding

    @property
    def without_embedding(self) -> int:
        """All but the input embedding, which is looked up and not multiplied."""
        return self.layers * self.layer + self.final_norm + self.head


def count_parameters(model: Model) -> ParameterCount:
    """The parameters of `model` by part."""
    embedding = model.vocab_rows * model.hidden
    return ParameterCount(
        embedding=embedding,
        attention=4 * model.hidden**2,
        mlp=3 * model.hidden * model.ffn,
        norms=2 * model.hidden,
        layers=model.layers,
        final_norm=model.hidden,
        head=embedding,
    )


def parameters(model: Model) -> int:
    """All parameters, input embedding included: 65,286,184,960 for K2."""
    return count_parameters(model).total


def flops_per_token(model: Model, context: int, attention: Attention = "uncounted") -> int:
    """FLOPs of training on one token: 2 forward and 4 backward a parameter, and attention's products as asked."""
    products = {"uncounted": 0, "causal": 6, "full": 12}[attention]
    return 6 * parameters(model) + products * model.layers * model.hidden * context
