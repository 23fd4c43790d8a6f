"""The same pieces in the form of Hugging Face's `tokenizers`: for users of an export, and for the fast encoder.

Enters a sentencepiece BPE model with byte fallback; leaves `tokenizer.json` and what `AutoTokenizer` needs beside it.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from k2.tokenizer.form import plain_form, read_model, why_not_same
from k2.tokenizer.pieces import BOS, CODE_TOKENS, EOS, MODEL_FILE, UNK, Tokenizer

log = logging.getLogger(__name__)


def save_huggingface(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and its configuration into `folder`, and the sentencepiece model beside them.

    `AutoTokenizer` then gives the same ids on text. Unlike `encode` it reads the names of special tokens in
    text as those tokens, as its users expect. No `<s>` is put in front: training never sees one (K2 §2).
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tokenizer.model_file, folder / MODEL_FILE)
    reason = why_not_same(read_model(tokenizer.model_file))
    if reason is not None:
        log.warning("%s goes without tokenizer.json, which could not say the same: %s. Use %s", folder, reason, MODEL_FILE)
        return
    _with_special_tokens(tokenizer).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_huggingface_config(), indent=1) + "\n", "utf-8")


def _with_special_tokens(tokenizer: Tokenizer) -> Any:
    from tokenizers import AddedToken

    plain = plain_form(read_model(tokenizer.model_file))
    names = [tokenizer.piece(token) for token in (UNK, BOS, EOS)]
    plain.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*names, *CODE_TOKENS)])
    return plain


def _huggingface_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": list(CODE_TOKENS),
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
