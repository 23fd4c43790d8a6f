"""Lines of a file that may be larger than memory, and of any part of it.

Enters a way to read blocks from an offset on; leaves `Line`s, each with the offset at which it begins. A range owns the
lines that begin in it: the one that runs over its end is read to its own end, the one that runs into it belongs to the
range before. So every line of a file is read exactly once, however the file is cut. No line longer than the limit is held.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line end. `content` is None when it is longer than the limit."""

    position: int
    content: bytes | None


def lines_of_range(blocks_from: Callable[[int], Iterator[bytes]], begin: int, end: int, limit: int) -> Iterator[Line]:
    """The lines that begin at offsets `begin` to `end` - 1, in order. `limit` counts bytes."""
    if begin == 0:
        yield from _until(split_lines(blocks_from(0), 0, limit), end)
        return
    blocks, position = blocks_from(begin - 1), begin - 1  # from one byte before: a line may begin exactly at `begin`
    for block in blocks:
        if position >= end:
            return  # the range lies inside one long line
        found = block.find(b"\n")
        if found >= 0:
            yield from _until(split_lines(_with(block[found + 1 :], blocks), position + found + 1, limit), end)
            return
        position += len(block)


def split_lines(blocks: Iterable[bytes], position: int, limit: int) -> Iterator[Line]:
    """Cut blocks at line ends; the first block begins at `position`. The last line may lack its end.

    A line that is too long is reported as soon as that is known, and its rest passed over in the blocks that follow.
    """
    parts: list[bytes] = []  # of the line that is not yet whole
    held, reported = 0, False
    for block in blocks:
        *whole, rest = block.split(b"\n")
        for piece in whole:
            if not reported:
                length = held + len(piece)
                yield Line(position - held, _join(parts, piece) if length <= limit else None)
            position += len(piece) + 1
            parts, held, reported = [], 0, False
        position += len(rest)
        held += len(rest)
        if held > limit:
            if not reported:
                yield Line(position - held, None)
            parts, reported = [], True
        elif rest:
            parts.append(rest)
    if held and not reported:
        yield Line(position - held, b"".join(parts))


def _until(lines: Iterator[Line], end: int) -> Iterator[Line]:
    for line in lines:
        if line.position >= end:
            return
        yield line


def _with(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _join(parts: list[bytes], piece: bytes) -> bytes:
    return b"".join((*parts, piece)) if parts else piece
