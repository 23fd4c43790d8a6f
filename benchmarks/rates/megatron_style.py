"""A preprocess loop as Megatron-LM's: a pool maps lines to ids, the parent writes one `.bin` and its `.idx`.

    python megatron_style.py MODEL WORKERS OUT FILE...

Prints `{"tokens": ..., "documents": ...}`. The index is Megatron's: magic, version, dtype code, counts, sizes, pointers, documents.
"""

import json
import struct
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import sentencepiece

_state: dict[str, sentencepiece.SentencePieceProcessor] = {}


def start(model: str) -> None:
    _state["pieces"] = sentencepiece.SentencePieceProcessor(model_file=model)


def encode(line: bytes) -> list[int]:
    pieces = _state["pieces"]
    return [*pieces.encode(json.loads(line)["text"]), pieces.eos_id()]


def lines(paths: list[str]) -> Iterator[bytes]:
    for path in paths:
        with Path(path).open("rb") as file:
            yield from file


def main(model: str, workers: str, out: str, *paths: str) -> None:
    sizes: list[int] = []
    with get_context("fork").Pool(int(workers), start, (model,)) as pool, Path(out, "text_document.bin").open("wb") as tokens:
        for ids in pool.imap(encode, lines(list(paths)), chunksize=32):
            tokens.write(np.array(ids, np.uint16).tobytes())
            sizes.append(len(ids))
    lengths = np.array(sizes, np.int32)
    starts = (np.cumsum(lengths, dtype=np.int64) - lengths) * 2
    with Path(out, "text_document.idx").open("wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(lengths), len(lengths) + 1))
        index.write(lengths.tobytes() + starts.tobytes() + np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
    print(json.dumps({"tokens": int(lengths.sum()), "documents": len(lengths)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
