"""A checkpoint as a Hugging Face Llama folder, loaded back and compared before it exists.

Enters: a committed checkpoint. Leaves: `exports/<checkpoint>/` with safetensors in the training's type, `config.json` as the stage
trained it (context, RoPE base), the tokenizer's files, and a receipt with the largest difference between the logits of
`LlamaForCausalLM` read from the folder and of our own model, on rows of the stage's data.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from k2.checkpoint.weights import read_weights
from k2.model.layers import PlainLlama, build_plain, set_weights
from k2.recipe.load import digest
from k2.recipe.schema import Model, Recipe, Stage
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout
from k2.run.receipt import BrokenOutput, Receipt, find_receipt, now, read_receipt, seal_folder

LOGIT_TOLERANCE = 1e-4  # largest |difference| with both models in float32, whatever type the weights were trained in
BF16_TOLERANCE = 0.05  # of the largest logit, both in bfloat16: 8 bits, rounded some hundred times in different orders
_SHARD_BYTES = 5_000_000_000
_COMPARED_ROWS = 2
_BOS, _EOS = 1, 2  # LLaMA's, which every tokenizer of a recipe keeps
_TYPES: dict[Literal["fp32", "bf16"], tuple[torch.dtype, str]] = {"fp32": (torch.float32, "float32"), "bf16": (torch.bfloat16, "bfloat16")}


class ExportRefused(ValueError):
    """An export that does not compute what the checkpoint computes. The text says how far apart they are."""


def export_checkpoint(recipe: Recipe, layout: RunLayout, name: str, write_tokenizer: Callable[[Path], None]) -> Receipt:
    """Export the checkpoint `name`, once; give back the receipt. `write_tokenizer` puts the tokenizer's files into a folder.

    `ExportRefused` when the exported model's logits differ, `BrokenOutput` when something it needs is missing.
    """
    found = find_receipt(layout.export(name))
    if found is not None:
        return still_of(found, find_receipt(layout.checkpoint(name)))
    checkpoint = read_receipt(layout.checkpoint(name))
    stage = recipe.stage(checkpoint.facts["stage"])
    dtype, type_name = _TYPES[recipe.layout.precision]
    weights = {key: tensor.to(dtype).contiguous() for key, tensor in read_weights(layout.checkpoint(name)).items()}
    rows_BT = stage_rows(layout, stage, _COMPARED_ROWS)
    with durable_folder(layout.export(name)) as beside:
        write_weights(beside, weights, _SHARD_BYTES)
        _write_json(beside / "config.json", config(recipe.model, stage, type_name))
        _write_json(beside / "generation_config.json", {"bos_token_id": _BOS, "eos_token_id": _EOS, "do_sample": False})
        write_tokenizer(beside)
        own = _own_model(recipe.model, stage, weights)
        difference = logit_difference(beside, own, rows_BT)
        rounded = {"relative_logit_difference_bf16": _within_rounding(name, beside, own, rows_BT)} if dtype is torch.bfloat16 else {}
        receipt = Receipt(
            kind="export",
            name=name,
            recipe=digest(recipe),
            made_at=now(),
            inputs={"checkpoint": checkpoint.digest},
            facts={
                "max_abs_logit_difference": within_tolerance(name, difference),
                "parameters": sum(tensor.numel() for tensor in weights.values()),
                "stage": stage.name,
                "context": stage.context,
                "dtype": type_name,
                "compared_tokens": rows_BT.numel(),
            }
            | rounded,
        )
        return seal_folder(beside, receipt)


def still_of(output: Receipt, source: Receipt | None) -> Receipt:
    """The output, if it was made from `source` or that is gone. `BrokenOutput` when another stands in its place."""
    if source is not None and output.inputs[source.kind] != source.digest:
        raise BrokenOutput(
            f"the {output.kind} of {output.name} was made from another {source.kind} of that name, which was set aside since; "
            f"move the folder of the {output.kind} away and ask again"
        )
    return output


def config(model: Model, stage: Stage, dtype: str) -> dict[str, Any]:
    """`config.json` of the model as `stage` trains it. RoPE's base stands twice: where transformers 5 looks, and where others do."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_rows,
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": stage.context,
        "rope_theta": stage.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": stage.rope_base},
        "rms_norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": _BOS,
        "eos_token_id": _EOS,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def write_weights(folder: Path, weights: Mapping[str, Tensor], shard_bytes: int) -> None:
    """One `model.safetensors`, or shards of at most `shard_bytes` (a tensor is never cut) with their index."""
    from safetensors.torch import save_file

    groups = shards({name: tensor.nbytes for name, tensor in weights.items()}, shard_bytes)
    files = (
        ["model.safetensors"]
        if len(groups) == 1
        else [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    )
    for file, names in zip(files, groups, strict=True):
        save_file({name: weights[name] for name in names}, str(folder / file), metadata={"format": "pt"})
    if len(groups) > 1:
        total = {"total_size": sum(tensor.nbytes for tensor in weights.values())}
        places = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        _write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": places})


def shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The names cut into runs of at most `limit` bytes; a larger tensor has a shard to itself."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def stage_rows(layout: RunLayout, stage: Stage, count: int) -> Tensor:
    """The first rows of the stage's first chunk, samples x context."""
    path = layout.chunk(stage.name, 0)
    if not path.is_file():
        raise BrokenOutput(f"{path} does not exist: an export is compared on rows of its stage's data; prepare the run's data again")
    ids = np.fromfile(path, dtype="<u2", count=count * stage.context)
    return torch.from_numpy(ids.astype(np.int64)).view(-1, stage.context)


@torch.inference_mode()
def logit_difference(folder: Path, own: PlainLlama, rows_BT: Tensor) -> float:
    """The largest |difference| of a logit between the exported folder's model and our own, both in float32."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    exported = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return float((exported(input_ids=rows_BT, use_cache=False).logits - own(rows_BT)).abs().max())


@torch.inference_mode()
def _within_rounding(name: str, folder: Path, own: PlainLlama, rows_BT: Tensor) -> float:
    """As users run it: both in bfloat16, which round in different orders. The largest |difference| over the largest |logit|."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()(input_ids=rows_BT, use_cache=False).logits.float()
    ours = own.to(torch.bfloat16)(rows_BT).float()
    relative = float((theirs - ours).abs().max() / theirs.abs().max())
    if not relative <= BF16_TOLERANCE:
        raise ExportRefused(
            f"the export of {name} is refused: in bfloat16 its logits differ from the checkpoint's by {relative:.3g} of the largest, more "
            f"than {BF16_TOLERANCE}; one of the two computes in another precision where it must not"
        )
    return relative


def _own_model(model: Model, stage: Stage, weights: Mapping[str, Tensor]) -> PlainLlama:
    own = build_plain(model, stage.rope_base).eval()
    set_weights(own, model, weights)
    return own


def within_tolerance(name: str, difference: float) -> float:
    if not difference <= LOGIT_TOLERANCE:  # a NaN is no agreement
        raise ExportRefused(
            f"the export of {name} is refused: its logits differ from the checkpoint's by up to {difference:.3g}, more than "
            f"{LOGIT_TOLERANCE}; the weights, config.json or the installed transformers do not describe the same model"
        )
    return difference


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
