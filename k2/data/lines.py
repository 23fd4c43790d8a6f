"""Lines of a file that may be larger than memory, and of any part of it.

Enters a way to read blocks from an offset on; leaves `Line`s, each with the offset at which it begins. A range owns the
lines that begin in it: the one that runs over its end is read to its own end, the one that runs into it belongs to the
range before. So every line of a file is read exactly once, however the file is cut. No line longer than the limit is held.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from k2.data.parse import TOO_LARGE


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line end; or `content` None, and the reason why it could not be had."""

    position: int
    content: bytes | None
    reason: str = ""


class Damaged(Exception):
    """Nothing more can be read of this file. Its one argument is the reason that is counted."""


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

    A line that is too long is reported as soon as that is known, and its rest passed over in the blocks that follow. What
    `Damaged` blocks leave unfinished is reported as one line of that reason.
    """
    splitter = _Splitter(position, limit)
    try:
        for block in blocks:
            yield from splitter.split(block)
    except Damaged as damaged:
        yield Line(splitter.begin, None, str(damaged))
    else:
        yield from splitter.last()


def _until(lines: Iterator[Line], end: int) -> Iterator[Line]:
    for line in lines:
        if line.position >= end:
            return
        yield line


def _with(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


class _Splitter:
    """The line that is not yet whole: where it begins, what is held of it, and whether it was reported as too long."""

    def __init__(self, position: int, limit: int) -> None:
        self.begin, self._limit = position, limit
        self._parts: list[bytes] = []
        self._length, self._reported = 0, False

    def split(self, block: bytes) -> Iterator[Line]:
        """The lines that end in the block, and the one that became too long in it."""
        *ends, rest = block.split(b"\n")
        for end in ends:
            if not self._reported:
                yield self._line(end)
            self.begin += self._length + len(end) + 1
            self._parts, self._length, self._reported = [], 0, False
        self._length += len(rest)
        if self._length > self._limit:
            if not self._reported:
                yield Line(self.begin, None, TOO_LARGE)
            self._parts, self._reported = [], True
        elif rest:
            self._parts.append(rest)

    def last(self) -> Iterator[Line]:
        """The line that no line end closes."""
        if self._length and not self._reported:
            yield self._line(b"")

    def _line(self, end: bytes) -> Line:
        if self._length + len(end) > self._limit:
            return Line(self.begin, None, TOO_LARGE)
        return Line(self.begin, b"".join((*self._parts, end)) if self._parts else end)
