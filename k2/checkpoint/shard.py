"""A rank's share of the training state as one file: the pieces of parameters that it holds, in the safetensors format.

Enters: named pieces and their numbers in float32. Leaves: a synced file, digested while it was written. What a piece belongs
to is said without any layout (whole shape, slice, first element), so every other layout can be served from it (`state`).
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from k2.run.receipt import FileDigest

Kind = Literal["master", "exp_avg", "exp_avg_sq"]  # the float32 weights, and AdamW's two moments
KINDS: tuple[Kind, ...] = get_args(Kind)
MOMENTS: tuple[Kind, ...] = ("exp_avg", "exp_avg_sq")
STATE = "state"  # the folder of a checkpoint that holds the shards
SUFFIX = ".safetensors"
PIECES, UPDATES = "k2.pieces", "k2.updates"  # what we say in the file's header
_BLOCK_BYTES = 4 << 20  # digested and written while it lies in the processor's cache
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Slice:
    """What one tensor-parallel rank holds of a parameter: the `part`-th of `parts` equal parts along `axis`."""

    axis: int = 0
    part: int = 0
    parts: int = 1

    def shape_in(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The slice's shape, of a parameter of that whole shape."""
        return tuple(size // self.parts if axis == self.axis else size for axis, size in enumerate(whole))


@dataclass(frozen=True)
class Piece:
    """A run of elements of a parameter (sliced, then flattened), as ZeRO cuts them: `length` elements from `start`."""

    name: str  # by Hugging Face's naming
    shape: tuple[int, ...]  # of the whole parameter
    start: int
    length: int
    slice: Slice = field(default_factory=Slice)


def shard_name(rank: int) -> str:
    return f"rank_{rank:05d}{SUFFIX}"


def write_shard(path: Path, numbers: Iterable[tuple[Piece, Mapping[Kind, memoryview]]], updates: int) -> FileDigest:
    """Write the pieces (a piece's moments may be absent: never updated) and force them to the disk; the file's digest.

    `updates` is how many times the optimizer has updated them. `OSError` when it cannot be written whole.
    """
    listed = list(numbers)
    header = _header(listed, updates)
    hashed, size = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as file:
        for block in _blocks([memoryview(header), *(buffer.cast("B") for _, kinds in listed for buffer in kinds.values())]):
            hashed.update(block)
            size += len(block)
            left = block
            while left:
                left = left[file.write(left) :]
        os.fsync(file.fileno())
    return FileDigest(path=f"{path.parent.name}/{path.name}", bytes=size, sha256=hashed.hexdigest())


def key(name: str, kind: Kind) -> str:
    """How a piece's numbers are called in the file; a file holds one piece of a parameter at most."""
    return f"{name}/{kind}"


def _header(listed: list[tuple[Piece, Mapping[Kind, memoryview]]], updates: int) -> bytes:
    """The safetensors header: eight bytes of length, then JSON padded so that the numbers begin aligned."""
    said = {piece.name: {name: value for name, value in asdict(piece).items() if name != "name"} for piece, _ in listed}
    entries: dict[str, object] = {"__metadata__": {PIECES: json.dumps(said), UPDATES: str(updates)}}
    at = 0
    for piece, kinds in listed:
        for kind, buffer in kinds.items():
            assert buffer.nbytes == _FLOAT_BYTES * piece.length, f"{piece.name}: {buffer.nbytes} bytes for {piece.length} floats"
            entries[key(piece.name, kind)] = {"dtype": "F32", "shape": [piece.length], "data_offsets": [at, at + buffer.nbytes]}
            at += buffer.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _blocks(buffers: Iterable[memoryview]) -> Iterable[memoryview]:
    for buffer in buffers:
        for number in range(math.ceil(buffer.nbytes / _BLOCK_BYTES)):
            yield buffer[number * _BLOCK_BYTES : (number + 1) * _BLOCK_BYTES]
