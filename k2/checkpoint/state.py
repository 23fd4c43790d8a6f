"""The training state of a checkpoint, read for any layout: whole parameters, or what one rank of another world holds of them.

Nothing is unpickled: the shards are safetensors. Verify the checkpoint first (`select.verify`): this reads what is there.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from k2.checkpoint.shard import MOMENTS, PIECES, STATE, SUFFIX, UPDATES, Kind, Piece, Slice, key
from k2.run.receipt import BrokenOutput

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Stored:
    """A piece, and the open file that holds it."""

    piece: Piece
    file: Any

    def read(self, kind: Kind) -> Floats:
        numbers: Floats = self.file.get_tensor(key(self.piece.name, kind))
        return numbers


class StateReader:
    """The state of one checkpoint. A context manager: the files stay open, and only what is asked for is read."""

    def __init__(self, checkpoint: Path) -> None:
        self._name, self._files = checkpoint.name, ExitStack()
        self._stored: dict[str, list[_Stored]] = {}
        updates = set()
        try:
            for path in sorted((checkpoint / STATE).glob(f"*{SUFFIX}")):
                updates.add(self._open(path))
        except BaseException:
            self._files.close()
            raise
        if len(updates) != 1:
            self._files.close()
            raise BrokenOutput(f"checkpoint {self._name} holds {_shards(updates)}: it is damaged; verify it and use another one")
        self.updates = updates.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()

    @property
    def names(self) -> list[str]:
        return sorted(self._stored)

    @property
    def has_moments(self) -> bool:
        """Whether the optimizer had been at work: before its first update it has no state."""
        return self.updates > 0

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole parameter. `BrokenOutput` when the checkpoint does not hold it."""
        return self._of(name)[0].piece.shape

    def whole(self, name: str, kind: Kind = "master") -> Floats:
        """The whole parameter, or one of its moments."""
        stored = self._of(name)
        cut = stored[0].piece.slice
        slices = [self._run(name, kind, Slice(cut.axis, part, cut.parts)) for part in range(cut.parts)]
        shape = cut.shape_in(stored[0].piece.shape)
        return np.concatenate([flat.reshape(shape) for flat in slices], axis=cut.axis) if cut.parts > 1 else slices[0].reshape(shape)

    def piece(self, wanted: Piece, kind: Kind) -> Floats:
        """The numbers of that piece, wherever this checkpoint's layout has put them. `BrokenOutput` when they are not all there."""
        stored = self._of(wanted.name)[0].piece
        if stored.shape != wanted.shape:
            raise BrokenOutput(f"{wanted.name} has the shape {stored.shape} in checkpoint {self._name}, the model wants {wanted.shape}")
        if stored.slice.parts == wanted.slice.parts and (stored.slice.axis == wanted.slice.axis or wanted.slice.parts == 1):
            return self._run(wanted.name, kind, wanted.slice, wanted.start, wanted.length)
        cut = wanted.slice
        part = np.split(self.whole(wanted.name, kind), cut.parts, axis=cut.axis)[cut.part]
        return part.reshape(-1)[wanted.start : wanted.start + wanted.length]

    def _open(self, path: Path) -> int:
        """Index the file's pieces; how many updates it says."""
        from safetensors import SafetensorError, safe_open

        try:
            file = self._files.enter_context(safe_open(path, framework="np"))
            said = file.metadata() or {}
            pieces = [_piece(name, fields) for name, fields in json.loads(said[PIECES]).items()]
            updates = int(said[UPDATES])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise BrokenOutput(f"{path} is no readable share of a training state ({error}); verify the checkpoint") from error
        for piece in pieces:
            self._stored.setdefault(piece.name, []).append(_Stored(piece, file))
        return updates

    def _of(self, name: str) -> list[_Stored]:
        if name not in self._stored:
            raise BrokenOutput(f"checkpoint {self._name} does not hold {name}: it is damaged or of another model; use another one")
        return self._stored[name]

    def _run(self, name: str, kind: Kind, cut: Slice, start: int = 0, length: int | None = None) -> Floats:
        """A run of a slice's elements, put together from the pieces that overlap it."""
        held = [s for s in self._of(name) if s.piece.slice.parts == 1 or s.piece.slice.part == cut.part]
        end = start + length if length is not None else int(np.prod(cut.shape_in(held[0].piece.shape if held else ())))
        found, at = [], start
        for stored in sorted(held, key=lambda s: s.piece.start):
            piece = stored.piece
            if piece.start <= at < piece.start + piece.length and at < end:
                upto = min(end, piece.start + piece.length)
                found.append(stored.read(kind)[at - piece.start : upto - piece.start])
                at = upto
        if at != end:
            raise BrokenOutput(f"checkpoint {self._name} lacks elements {at} to {end} of {name}: it is damaged; use another one")
        return found[0] if len(found) == 1 else np.concatenate(found)


def read_kinds(reader: StateReader) -> Sequence[Kind]:
    """What the checkpoint holds of every parameter."""
    return ("master", *MOMENTS) if reader.has_moments else ("master",)


def _piece(name: str, fields: dict[str, Any]) -> Piece:
    return Piece(name, tuple(fields["shape"]), int(fields["start"]), int(fields["length"]), Slice(**fields["slice"]))


def _shards(updates: set[int]) -> str:
    return "no share of a state" if not updates else f"shares of different updates ({', '.join(map(str, sorted(updates)))})"
