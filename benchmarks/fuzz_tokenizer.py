"""The fast encoder against sentencepiece on texts made to bring out differences.

    python benchmarks/fuzz_tokenizer.py [--count 100000] [--seed 1] [--model tokenizer.model]

Without a model it trains one of 32,000 pieces with LLaMA's settings on Python's own sources. Prints the texts that
differ and exits with 1 if there are any. The tests run a small sample of the same texts.
"""

import argparse
import random
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from k2.recipe.data import TrainedTokenizer
from k2.tokenizer import CODE_TOKENS, MODEL_FILE, Tokenizer, train_tokenizer

_POOLS = (
    *("     abcdefghij\n\t", "  \n\t\r\x0b\x0c\u00a0\u2003\u3000\u200b", "éèüñßøåçæœ", "漢字仮名交じり文日本語中文", "абвгдежзийклмн"),
    *("مرحبا بالعالم", "नमस्ते दुनिया", "😀👩‍👩‍👧‍👦🏳️‍🌈🇫🇷e\u0301\u0308", "\u2581▁ a<s></s><unk><0x0A>", "0123456789.,-+eE"),
    *("\x00\x01\x7f\x80\ufeff\ufffd\uffff", "▁ ", "한국어 텍스트", "ﬁ①½™ＡＢＣ"),
)
_WORDS = (
    *("</s>", "<s>", "<unk>", "<0x0A>", "<0xE6>", "def ", "return ", "self.", "import ", "▁▁", "  ", "\n\n", "    ", "the ", "ation"),
    *CODE_TOKENS,
)


def hard_texts(seed: int, count: int) -> Iterator[str]:
    """Texts of 0 to some hundred parts: arbitrary Unicode, special tokens' names, long words, runs of spaces, U+2581, NULs."""
    draw = random.Random(seed)
    for _ in range(count):
        parts: list[str] = []
        characters, wanted = 0, draw.choice((0, 1, 2, 5, 20, 60, 300))
        while characters < wanted:
            parts.append(_part(draw))
            characters += len(parts[-1])
        yield "".join(parts)


def python_sources(limit_bytes: int) -> Iterator[str]:
    """Sources of the standard library, up to about that many bytes."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        text = path.read_text("utf-8", "replace")
        limit_bytes -= len(text.encode())
        if limit_bytes < 0:
            return
        yield text


def stand_in(folder: Path, pieces: int = 32_000, train_bytes: int = 20_000_000) -> Tokenizer:
    """A tokenizer like LLaMA's, trained on what the machine holds."""
    settings = TrainedTokenizer(pieces=pieces, train_bytes=train_bytes)
    train_tokenizer(python_sources(train_bytes), folder, settings, "0" * 64)
    return Tokenizer(folder)


def differing(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """The texts of which the two give different ids."""
    return [text for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True) if ids.tolist() != tokenizer.encode(text)]


def _part(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.5:
        return "".join(draw.choices(draw.choice(_POOLS), k=draw.randint(1, 8)))
    if kind < 0.7:
        return draw.choice(_WORDS) * draw.choice((1, 1, 2, 5))
    if kind < 0.9:
        return "".join(_character(draw) for _ in range(draw.randint(1, 5)))
    return draw.choice(" ab▁\n\0é漢") * draw.choice((2, 17, 64, 300))


def _character(draw: random.Random) -> str:
    code = draw.randrange(0x110000) if draw.random() < 0.5 else draw.randrange(0x3000)
    return "x" if 0xD800 <= code < 0xE000 else chr(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.model:
            (Path(folder) / MODEL_FILE).write_bytes(asked.model.read_bytes())
        tokenizer = Tokenizer(Path(folder)) if asked.model else stand_in(Path(folder) / "tokenizer")
        different = differing(tokenizer, list(hard_texts(asked.seed, asked.count)))
    print(f"{len(different)} of {asked.count} texts differ from sentencepiece (seed {asked.seed}, {tokenizer.pieces} pieces)")
    for text in different[:20]:
        print(repr(text))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
