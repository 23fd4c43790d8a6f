"""The model as the list that a pipeline cuts, and as one module for a single process.

The list is the same for both: embedding, blocks, final norm, head. A layer's place in it, with the layer's own
parameter names, gives the Hugging Face name of every weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from k2.model.backend import Backend
from k2.model.llama import DecoderBlock, Embedding, FinalNorm, Head, Shape
from k2.model.parallel import ALONE, TensorRanks
from k2.recipe.schema import AttentionSpan, Model, Recipe, Stage

CUT_AT = "type:DecoderBlock"  # pipeline stages hold equally many blocks; embedding comes first, norm and head last


@dataclass(frozen=True)
class LayerSpec:
    """One layer, not yet built: only the rank that holds it allocates its weights."""

    kind: type[nn.Module]
    arguments: tuple[object, ...]

    def build(self) -> nn.Module:
        return self.kind(*self.arguments)


class PlainLlama(nn.Module):
    """All layers in one process: for exports, tests and single-process runs. Token ids in, logits out."""

    def __init__(self, specs: list[LayerSpec]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(spec.build() for spec in specs)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = tokens_BT
        for layer in self.layers:
            x = layer(x)
        return x


def layer_list(recipe: Recipe, stage: Stage, ranks: TensorRanks = ALONE, backend: Backend = "sdpa") -> list[LayerSpec]:
    """The layers of the recipe's model as `stage` trains it; of each layer the slices of this one of `ranks`."""
    return _specs(Shape(recipe.model, stage.rope_base, recipe.seed, ranks, recipe.layout.recompute, stage.attention_span, backend))


def build_plain(model: Model, rope_base: float, seed: int = 0, span: AttentionSpan = "row", backend: Backend = "sdpa") -> PlainLlama:
    """The whole model in this process, freshly drawn from `seed`."""
    return PlainLlama(_specs(Shape(model, rope_base, seed, span=span, backend=backend)))


def layer_prefixes(model: Model) -> tuple[str, ...]:
    """For each layer of the list what its parameters' names begin with in Hugging Face's `LlamaForCausalLM`."""
    blocks = tuple(f"model.layers.{number}." for number in range(model.layers))
    return ("model.embed_tokens.", *blocks, "model.norm.", "lm_head.")


def weights_of(plain: PlainLlama, model: Model) -> dict[str, Tensor]:
    """The model's weights by their Hugging Face names."""
    return {
        prefix + name: tensor
        for prefix, layer in zip(layer_prefixes(model), plain.layers, strict=True)
        for name, tensor in layer.state_dict().items()
    }


@torch.no_grad()
def set_weights(plain: PlainLlama, model: Model, weights: Mapping[str, Tensor]) -> None:
    """Fill the model with weights given by their Hugging Face names. `ValueError` names what is missing, too many or misshapen."""
    own = weights_of(plain, model)
    wrong = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        raise ValueError(
            f"the weights do not fit the model: {', '.join(wrong[:5])} missing, unknown or of another shape; give the weights of this model"
        )
    for name, tensor in own.items():
        tensor.copy_(weights[name])


def _specs(shape: Shape) -> list[LayerSpec]:
    blocks = [LayerSpec(DecoderBlock, (shape, number)) for number in range(shape.model.layers)]
    return [LayerSpec(Embedding, (shape,)), *blocks, LayerSpec(FinalNorm, (shape,)), LayerSpec(Head, (shape,))]
