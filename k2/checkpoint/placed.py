"""Live training state as a checkpoint takes it: flat partitions of numbers, and which pieces of parameters lie where in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from k2.checkpoint.shard import Kind, Piece


@dataclass(frozen=True)
class PlacedPiece:
    """A piece, and where it lies: from `offset` on in the `partition`-th flat partition of this rank."""

    piece: Piece
    partition: int
    offset: int
    counted: bool = True  # of the copies that tensor ranks hold one is counted


@dataclass(frozen=True)
class TrainingState:
    """The live numbers of one rank. Before the optimizer's first update there are no moments."""

    pieces: tuple[PlacedPiece, ...]
    partitions: Mapping[Kind, Sequence[Tensor]]  # float32, flat; the next update changes them in place
    updates: int
