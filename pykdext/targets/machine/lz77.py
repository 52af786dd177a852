"""Plain LZ77 as Windows uses it, unpacked. Source: the open specification [MS-XCA], "Plain LZ77"."""

from __future__ import annotations

from typing import Optional, Tuple


class _DamagedError(Exception):
    """The bytes cannot have been packed so."""


def unpack_lz77(data: bytes, size: int) -> Optional[bytes]:
    """The ``size`` bytes that ``data`` stands for; None if it is damaged. Never more than ``size`` are made."""
    out = bytearray()
    at = flags = flags_left = 0
    half_at = -1  # where a length's upper half waits for the next match
    try:
        while len(out) < size:
            if not flags_left:
                flags, flags_left = data[at] | data[at + 1] << 8 | data[at + 2] << 16 | data[at + 3] << 24, 32
                at += 4
            flags_left -= 1
            if not flags >> flags_left & 1:
                out.append(data[at])
                at += 1
                continue
            match = data[at] | data[at + 1] << 8
            at += 2
            length = match & 7
            if length == 7:
                length, at, half_at = _read_length(data, at, half_at)
            _repeat(out, (match >> 3) + 1, min(length + 3, size - len(out)))
    except (IndexError, _DamagedError):
        return None
    return bytes(out)


def _read_length(data: bytes, at: int, half_at: int) -> Tuple[int, int, int]:
    """A length that does not fit into three bits; and where to read on, and where a half byte waits (-1: nowhere)."""
    if half_at < 0:
        length, half_at = data[at] & 0xF, at
        at += 1
    else:
        length, half_at = data[half_at] >> 4, -1
    if length < 15:
        return length + 7, at, half_at
    length = data[at]
    at += 1
    if length < 255:
        return length + 22, at, half_at
    length = data[at] | data[at + 1] << 8
    at += 2
    if not length:
        length = data[at] | data[at + 1] << 8 | data[at + 2] << 16 | data[at + 3] << 24
        at += 4
    if length < 22:
        raise _DamagedError
    return length, at, half_at


def _repeat(out: bytearray, distance: int, length: int) -> None:
    """Add bytes that stood ``distance`` before the end; they may reach into what is being added."""
    start = len(out) - distance
    if start < 0:
        raise _DamagedError
    if distance >= length:
        out += out[start : start + length]
    else:
        out += (bytes(out[start:]) * (length // distance + 1))[:length]
