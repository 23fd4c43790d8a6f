"""Decompression of a `.gz` or `.zst` file as a stream, with memory that does not grow.

Enters compressed blocks; leaves blocks of at most 1 MiB. What was whole before a tear or a damage is given, and then
`Damaged` is raised with the reason. A file that unfolds more than 250-fold is taken for a bomb and left.
"""

import zlib
from collections.abc import Iterator
from typing import Protocol

from k2.data.lines import Damaged
from k2.data.parse import BOMB, DAMAGED, TORN, WINDOW

_OUTPUT_BYTES = 1 << 20
_INPUT_BYTES = 1 << 16  # a decoder is fed so little at once that a bomb shows before much of it has gone off
_BOMB_RATIO = 250  # real text: 3 to 10, below 100 even where pages repeat themselves; gzip can reach 1030
_BOMB_BYTES = 64 << 20  # a ratio says nothing of a small file
_WINDOW_LOG = 27  # 128 MB, zstd's own bound; a frame made with --long=28 and more needs memory that the whole build does not


class _Decoder(Protocol):
    """One frame or member."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """zlib with the interface of the other decoders: it keeps its unread input itself."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int = _OUTPUT_BYTES) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


def decompressed(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The content of the file of that name. Frames and members follow one another, as both formats allow."""
    new_decoder = _gzip if name.endswith(".gz") else _zstd
    decoder, begun, read_bytes, written_bytes = new_decoder(), False, 0, 0
    for block in _small(blocks):
        read_bytes += len(block)
        rest = block
        while rest := rest if begun else rest.lstrip(b"\0"):  # tapes and some tools pad with zeros
            for output in _outputs(decoder, rest):
                written_bytes += len(output)
                yield output
                if written_bytes > max(_BOMB_BYTES, _BOMB_RATIO * read_bytes):
                    raise Damaged(BOMB)
            begun, rest = not decoder.eof, decoder.unused_data if decoder.eof else b""
            decoder = decoder if begun else new_decoder()
    if begun:
        raise Damaged(TORN)


def _small(blocks: Iterator[bytes]) -> Iterator[bytes]:
    return (block[at : at + _INPUT_BYTES] for block in blocks for at in range(0, len(block), _INPUT_BYTES))


def _outputs(decoder: _Decoder, block: bytes) -> Iterator[bytes]:
    """What the block gives, in parts of bounded size, to the end of the block or of the frame."""
    while not decoder.eof:
        output = _decompress(decoder, block)
        if not output:
            return
        yield output
        block = b""


def _decompress(decoder: _Decoder, block: bytes) -> bytes:
    from backports.zstd import ZstdError

    try:
        return decoder.decompress(block, _OUTPUT_BYTES)
    except zlib.error:
        raise Damaged(DAMAGED) from None
    except ZstdError as error:
        raise Damaged(WINDOW if "memory" in str(error) else DAMAGED) from None


def _gzip() -> _Decoder:
    return _Gzip()


def _zstd() -> _Decoder:
    from backports.zstd import DecompressionParameter, ZstdDecompressor

    return ZstdDecompressor(options={DecompressionParameter.window_log_max: _WINDOW_LOG})
