"""Unpacks single pages, never to more than one page, whatever their bytes say."""

from __future__ import annotations

import importlib
import zlib
from typing import Any, Callable, Dict, Optional

ZLIB, LZO, SNAPPY, ZSTANDARD = 0x01, 0x02, 0x04, 0x20
"""The flags of kdump's page descriptors."""

NAMES = {ZLIB: "zlib", LZO: "LZO", SNAPPY: "snappy", ZSTANDARD: "Zstandard"}

Unpack = Callable[[bytes, int], Optional[bytes]]
"""Packed bytes, and the size of a page: the page, or None if the bytes are damaged."""


def _unpack_zlib(data: bytes, size: int) -> Optional[bytes]:
    try:
        return zlib.decompressobj().decompress(data, size)
    except zlib.error:
        return None


def _make_snappy() -> Unpack:
    import cramjam

    raw: Any = cramjam.snappy

    def unpack(data: bytes, size: int) -> Optional[bytes]:
        told = shift = 0
        for byte in data[:5]:  # how many bytes it unpacks to, seven bits a byte
            told |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if told != size:
            return None
        try:
            return bytes(raw.decompress_raw(data))
        except cramjam.DecompressionError:
            return None

    return unpack


def _make_lzo() -> Unpack:
    # The module in Python: the one in Rust ends a program that gives it damaged pages.
    lzo: Any = importlib.import_module("dissect.util.compression.lzo")

    def unpack(data: bytes, size: int) -> Optional[bytes]:
        if len(data) > size:  # a byte of input makes 255 at most
            return None
        try:
            return bytes(lzo.decompress(data, header=False))
        except (LookupError, ValueError, EOFError, TypeError, OverflowError):  # it does not check its input
            return None

    return unpack


_MAKERS: Dict[int, Callable[[], Unpack]] = {ZLIB: lambda: _unpack_zlib, SNAPPY: _make_snappy, LZO: _make_lzo}


def find_unpacker(flag: int) -> Optional[Unpack]:
    """What unpacks pages of this kind; None if it is not installed (``pykdext[vm]``) or not read at all."""
    maker = _MAKERS.get(flag)
    if maker is None:
        return None
    try:
        return maker()
    except ImportError:
        return None
