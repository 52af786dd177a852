"""Ways to damage bytes, chosen by a seed."""

from __future__ import annotations

import struct

BOUNDARIES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)
"""Numbers at which counts and sizes go wrong."""

PAGE = 4096
MAX_LINE_BYTES = 1 << 17
"""A line that is repeated over and over would fill the memory of the fuzz itself."""


def flip_bits(data, chance, start, stop):
    """One to eight bits."""
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)


def put_number(data, chance, start, stop):
    """A number at the edge of what fields hold, over an aligned field of 2, 4 or 8 bytes."""
    size = chance.choice((2, 4, 8))
    at = chance.randrange(start, stop) & -size
    value = chance.choice((*BOUNDARIES, chance.getrandbits(64))) & ((1 << 8 * size) - 1)
    data[at : at + size] = struct.pack("<Q", value)[:size]


def put_noise(data, chance, start, stop):
    """Random bytes, zeros or ones over a stretch."""
    at = chance.randrange(start, stop)
    size = min(chance.choice((1, 4, 16, 64, 512, PAGE)), stop - at)
    data[at : at + size] = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))


def repeat_bytes(data, chance, start, stop):
    """What stands at one place also at another."""
    size = min(chance.choice((4, 8, 64, PAGE)), stop - start)
    source, target = (chance.randrange(start, stop - size + 1) for _ in range(2))
    data[target : target + size] = data[source : source + size]


IN_PLACE = (flip_bits, put_number, put_noise, repeat_bytes)


def cut(data, chance, start, stop):
    """The file ends early."""
    del data[chance.randrange(start, stop) :]


def lose_bytes(data, chance, start, stop):
    """A stretch is missing, so that what follows stands elsewhere."""
    at = chance.randrange(start, stop)
    del data[at : at + chance.choice((1, 8, 512, PAGE))]


def gain_bytes(data, chance, start, stop):
    """A stretch too many."""
    at = chance.randrange(start, stop)
    data[at:at] = chance.randbytes(chance.choice((1, 8, 512, PAGE)))


ANYHOW = (*IN_PLACE, cut, lose_bytes, gain_bytes)


def damage(data, chance, kinds=ANYHOW, start=0, stop=None):
    """``data`` (a bytearray) damaged between two offsets; the name of the way."""
    stop = len(data) if stop is None else min(stop, len(data))
    if start >= stop:
        return "nothing to damage"
    kind = chance.choice(kinds)
    kind(data, chance, start, stop)
    return kind.__name__


def damage_text(text, chance):
    """Bytes of a text file, damaged by lines and columns as well."""
    lines = text.split(b"\n")
    way = chance.choice(("bytes", "lines", "digits", "columns", "repeat", "mix"))
    if way == "bytes":
        data = bytearray(text)
        damage(data, chance)
        return bytes(data)
    for _ in range(chance.choice((1, 3, 20))):
        at = chance.randrange(len(lines))
        line = lines[at]
        if way == "lines":
            lines[at : at + 1] = chance.choice(([], [line, line], [line[::-1]], [line + line], [b"\0" * 40]))
            lines = lines or [b""]
        elif way == "digits":
            wanted = chance.choice((b"-1", b"99999999999999999999999", b"0x10", b"1e999", b"NaN", b"", b"1.234.567,8"))
            places = [index for index, byte in enumerate(line) if 0x30 <= byte <= 0x39]
            if places:
                place = chance.choice(places)
                lines[at] = line[:place] + wanted + line[place + 1 :]
        elif way == "columns":
            words = line.split()
            chance.shuffle(words)
            lines[at] = b" ".join(words)
        elif way == "repeat":
            lines[at] = (line * chance.choice((2, 50, 2000)))[:MAX_LINE_BYTES]
        else:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], line
    return b"\n".join(lines)
