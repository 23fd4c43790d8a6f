"""The way back: an existing Hugging Face Llama as the state that a run starts from, `ckpt_000`.

Enters: a folder with `config.json` and safetensors (and `tokenizer.model`). Leaves: a committed checkpoint of weights alone, after
our model was shown to compute what `LlamaForCausalLM` computes with them. What our model cannot be is refused by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k2.checkpoint.commit import FORMAT, RECIPE
from k2.checkpoint.huggingface import within_tolerance
from k2.checkpoint.saving import square
from k2.checkpoint.weights import write_weights_as_state
from k2.model.layers import build_plain, set_weights
from k2.recipe.load import digest, to_toml
from k2.recipe.schema import Model, Recipe
from k2.run.durable import durable_folder
from k2.run.layout import RunLayout, checkpoint_name
from k2.run.receipt import RECEIPT, Receipt, digest_files, now, seal_folder, write_receipt

_TEXT = (
    "The quick brown fox jumps over the lazy dog. Permission is hereby granted, free of charge, to any person obtaining a copy of this "
    "software to deal in it without restriction.\n\ndef mean(values):\n    return sum(values) / len(values)\n"
)
_FIXED: Mapping[str, tuple[Any, ...]] = {  # what our model is, in the words of the configuration; a field that is absent is as it should be
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
}


class ImportRefused(ValueError):
    """A model that cannot be trained on here. The text names the field, its value and what it must be."""


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`, if it describes a Llama of ours. `ImportRefused` names what it is not."""
    path = folder / "config.json"
    if not path.is_file():
        raise ImportRefused(f"{path} does not exist: give a folder that `save_pretrained` or `k2 export` wrote")
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    wrong = [f"{name} = {config[name]!r}, must be {may[0]!r}" for name, may in _FIXED.items() if name in config and config[name] not in may]
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads", config.get("num_attention_heads"))
    if groups != heads:
        wrong.append(f"num_key_value_heads = {groups}, must be num_attention_heads = {heads}: grouped queries are not trained here")
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        wrong.append(f"rope_parameters.rope_type = {rope['rope_type']!r}, must be 'default'")
    if wrong:
        raise ImportRefused(f"{path} is refused: {'; '.join(wrong)}")
    return config


def model_of(config: Mapping[str, Any]) -> Model:
    """The recipe's model section for it."""
    return Model(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        ffn=config["intermediate_size"],
        heads=config["num_attention_heads"],
        vocab_rows=config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", 1e-5),
        init_std=config.get("initializer_range", 0.02),
    )


def rope_base_of(config: Mapping[str, Any]) -> float:
    """RoPE's base, wherever this version of transformers wrote it."""
    return float((config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", 10_000.0)))


def check_fit(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """`ImportRefused` where the recipe would train another model, or the first stage turns positions otherwise."""
    own, theirs, stage = recipe.model.model_dump(), model_of(config).model_dump(), recipe.stages[0]
    wrong = [
        f"model.{name} = {own[name]}, the config says {theirs[name]}" for name in own if own[name] != theirs[name] and name != "init_std"
    ]
    if stage.rope_base != rope_base_of(config):
        wrong.append(f"stages.{stage.name}.rope_base = {stage.rope_base:g}, the config says {rope_base_of(config):g}")
    if wrong:
        raise ImportRefused(
            f"the recipe {recipe.name} is not of this model: {'; '.join(wrong)}. Set them with --set, or leave --recipe out"
        )


def import_weights(recipe: Recipe, layout: RunLayout, source: Path) -> Receipt:
    """Commit `ckpt_000` from the folder's weights. `ImportRefused` where they do not fit, `ExportRefused` where the logits differ."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    stage, name = recipe.stages[0], checkpoint_name(0)
    theirs = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True).eval()
    weights = {key: tensor.detach() for key, tensor in theirs.state_dict().items()}
    own = build_plain(recipe.model, stage.rope_base).eval()
    set_weights(own, recipe.model, weights)
    rows_BT = _rows(source, recipe.model.vocab_rows, stage.context)
    with torch.inference_mode():
        difference = float((theirs(input_ids=rows_BT, use_cache=False).logits - own(rows_BT)).abs().max())
    with durable_folder(layout.checkpoint(name)) as beside:
        write_weights_as_state(beside, weights)
        (beside / RECIPE).write_text(to_toml(recipe), "utf-8")
        receipt = seal_folder(beside, _receipt(recipe, source, weights, within_tolerance(name, difference), rows_BT.numel()))
        return write_receipt(beside / RECEIPT, receipt.model_copy(update={"sealed": receipt.digest}))


def _rows(source: Path, vocab_rows: int, context: int) -> Tensor:
    """Real text by the folder's own tokenizer, where it has one; else made-up ids."""
    from transformers import AutoTokenizer

    try:
        ids = AutoTokenizer.from_pretrained(source, local_files_only=True)(_TEXT)["input_ids"]
    except (OSError, ValueError, ImportError):
        ids = torch.randint(3, vocab_rows, (context,), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.tensor([ids[:context]])


def _receipt(recipe: Recipe, source: Path, weights: Mapping[str, Tensor], difference: float, compared: int) -> Receipt:
    files = {f"source/{file.path}": file.sha256 for file in digest_files(source, source.glob("*.safetensors"))}
    return Receipt(
        kind="checkpoint",
        name=checkpoint_name(0),
        recipe=digest(recipe),
        made_at=now(),
        inputs={"recipe": digest(recipe)} | files,
        facts={
            "kind": "imported",
            "stage": recipe.stages[0].name,
            "step": 0,
            "tokens": 0,
            "attempt": 0,
            "parent": None,
            "precision": "fp32",
            "arithmetic": "imported",
            "format": FORMAT,
            "updates": 0,
            "squares": {"master": sum(square(tensor) for tensor in weights.values())},
            "not_finite": 0,
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "max_abs_logit_difference": difference,
            "compared_tokens": compared,
        },
    )
