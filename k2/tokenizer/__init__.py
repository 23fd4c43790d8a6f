"""The tokenizer: sentencepiece pieces with LLaMA's settings, and behind them K2's 18 code tokens (K2 §2)."""

from k2.tokenizer.huggingface import save_huggingface
from k2.tokenizer.pieces import CODE_TOKENS, MODEL_FILE, Tokenizer, TokenizerError
from k2.tokenizer.training import install_tokenizer, train_tokenizer

__all__ = ["CODE_TOKENS", "MODEL_FILE", "Tokenizer", "TokenizerError", "install_tokenizer", "save_huggingface", "train_tokenizer"]
