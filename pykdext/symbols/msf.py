"""MSF 7.0, the multi-stream file that holds a PDB: numbered streams of bytes, cut into blocks, and their directory.

Sources: Microsoft's published ``microsoft-pdb`` sources and LLVM's documentation of the format.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import IO, Sequence, Tuple

from pykdext.errors import SymbolFileError
from pykdext.units import count_things

MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_OLD_MAGIC = b"Microsoft C/C++ program database 2.00"

MAX_FILE_BYTES = 1 << 30
"""The kernel's PDB has some 10 MB; the largest ones in use (browsers) stay below a few GB."""

_SUPERBLOCK = struct.Struct("<32s5I")
_BLOCK_SIZES = tuple(1 << bits for bits in range(9, 16))
_MAX_STREAMS = 1 << 16
"""Streams are referred to by 16-bit numbers."""
_ABSENT = 0xFFFFFFFF
"""The size of a stream that was deleted."""


@dataclass(frozen=True)
class _Stream:
    size_bytes: int
    blocks: Tuple[int, ...]


class MsfFile:
    """The streams of one file. The file is open only while a stream is read."""

    def __init__(self, path: str, block_bytes: int, streams: Sequence[_Stream]) -> None:
        self.path = path
        self._block_bytes = block_bytes
        self._streams = streams

    def read_stream(self, number: int) -> bytes:
        """All bytes of a stream; none for one that is not there.

        Raises:
            SymbolFileError: the file became shorter, or the stream's blocks repeat.
        """
        if number >= len(self._streams):
            return b""
        stream = self._streams[number]
        with _open(self.path) as file:
            return _read_blocks(file, self.path, stream.blocks, self._block_bytes, stream.size_bytes)


def open_msf(path: str) -> MsfFile:
    """Read the directory of the file at ``path``.

    Raises:
        SymbolFileError: it is no such file, is cut off, or its directory points outside of it.
    """
    with _open(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        block_bytes, block_count, directory_bytes, blocks_of_list = _read_superblock(file, path, file_bytes)
        block_numbers = _read_blocks(
            file, path, blocks_of_list, block_bytes, 4 * _count_blocks(directory_bytes, block_bytes)
        )
        directory = _read_blocks(file, path, _words(block_numbers), block_bytes, directory_bytes)
    return MsfFile(path, block_bytes, _parse_directory(path, directory, block_bytes, block_count))


def _open(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise SymbolFileError(path, f"a file that cannot be read ({error.strerror})", "a PDB") from error


def _read_superblock(file: IO[bytes], path: str, file_bytes: int) -> Tuple[int, int, int, Tuple[int, ...]]:
    """Block size, number of blocks, size of the directory, and the blocks that list the directory's blocks."""
    head = file.read(_SUPERBLOCK.size)
    if not head.startswith(MAGIC) or len(head) < _SUPERBLOCK.size:
        raise SymbolFileError(path, describe_head(head), "a PDB (MSF 7.00)")
    _, block_bytes, _, block_count, directory_bytes, _ = _SUPERBLOCK.unpack(head)
    if block_bytes not in _BLOCK_SIZES:
        raise SymbolFileError(path, f"blocks of {block_bytes} bytes", "a power of two from 512 to 32768")
    if block_count * block_bytes > file_bytes or file_bytes > MAX_FILE_BYTES:
        expected = f"{block_count * block_bytes:,} as its first block says, and at most {MAX_FILE_BYTES:,}"
        raise SymbolFileError(path, count_things(file_bytes, "byte"), expected)
    if not 4 <= directory_bytes <= 4 * (1 + _MAX_STREAMS + block_count):
        raise SymbolFileError(
            path,
            f"a directory of {count_things(directory_bytes, 'byte')}",
            f"one that lists {count_things(block_count, 'block')}",
        )
    list_bytes = 4 * _count_blocks(directory_bytes, block_bytes)
    list_blocks = file.read(4 * _count_blocks(list_bytes, block_bytes))
    return block_bytes, block_count, directory_bytes, _words(list_blocks)


def describe_head(head: bytes) -> str:
    """What the first bytes of a file that is no PDB say about it, for messages."""
    if head.startswith(_OLD_MAGIC):
        return "a PDB 2.00 (Visual C++ 6 and older)"
    return f"the first bytes {head[:16]!r}" if head else "an empty file"


def _parse_directory(path: str, directory: bytes, block_bytes: int, block_count: int) -> Tuple[_Stream, ...]:
    """The directory: number of streams, their sizes, then the block numbers of one stream after the other."""
    words = _words(directory)
    stream_count = words[0]
    sizes = tuple(0 if size == _ABSENT else size for size in words[1 : 1 + stream_count])
    counts = [_count_blocks(size, block_bytes) for size in sizes]
    if len(sizes) != stream_count or sum(counts) > min(block_count, len(words) - 1 - stream_count):
        found = f"{count_things(stream_count, 'stream')} of {count_things(sum(counts), 'block')}"
        raise SymbolFileError(path, found, f"no more than the file's {count_things(block_count, 'block')}, all listed")
    streams = []
    position = 1 + stream_count
    for size, count in zip(sizes, counts):
        streams.append(_Stream(size, words[position : position + count]))
        position += count
    return tuple(streams)


def _count_blocks(size_bytes: int, block_bytes: int) -> int:
    return -(-size_bytes // block_bytes)


def _words(data: bytes) -> Tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data[: len(data) & ~3])


def _read_blocks(file: IO[bytes], path: str, blocks: Sequence[int], block_bytes: int, size_bytes: int) -> bytes:
    """``size_bytes`` from ``blocks``: each inside the file, none twice, so that no file yields more than it holds."""
    if len(set(blocks)) != len(blocks) or len(blocks) < _count_blocks(size_bytes, block_bytes):
        raise SymbolFileError(
            path,
            f"{count_things(len(set(blocks)), 'different block')} for {count_things(size_bytes, 'byte')}",
            "enough, none twice",
        )
    pieces = []
    try:
        for block in blocks:
            file.seek(block * block_bytes)
            pieces.append(file.read(block_bytes))
    except OSError as error:
        raise SymbolFileError(path, f"a file that cannot be read ({error.strerror})", "a PDB") from error
    data = b"".join(pieces)
    if len(data) < size_bytes:
        raise SymbolFileError(
            path, f"{count_things(len(data), 'byte')} of a stream", f"{size_bytes:,}: the file is cut off or damaged"
        )
    return data[:size_bytes]
