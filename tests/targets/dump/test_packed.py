"""Packed dumps are told by their first bytes, whatever else these look like."""

from __future__ import annotations

import gzip
import lzma
import random
import zipfile

import pytest

from dumps.forge import forge
from pykdext.pipeline import load_states

COUNT = 400


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "MEMORY.DMP"
    machine = forge("quiet", processors=1, table_rows=513)
    machine.save(path)
    return path.read_bytes()


def pack(data, chance, path):
    """Packed in one of the ways of the tools that do it, with names, times and levels as they come."""
    way = chance.choice(("gz", "gz", "xz", "xz", "zip"))
    if way == "gz":
        with open(path, "wb") as raw:
            name = chance.choice(("", "MEMORY.DMP", "a b (1).dmp", "x" * 200))
            packer = gzip.GzipFile(name, "wb", chance.choice((1, 9)), raw, mtime=chance.getrandbits(32))
            with packer:
                packer.write(data)
    elif way == "xz":
        check = chance.choice((lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256))
        path.write_bytes(lzma.compress(data, check=check, preset=chance.choice((0, 1))))
    else:
        method = chance.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
            archive.writestr(chance.choice(("MEMORY.DMP", "dumps/a.dmp")), data)
    return way


def test_every_packed_dump_is_recognised(dump, tmp_path):
    """The bytes behind a magic look like text now and then: about one xz in ten, and one gz in four."""
    wanted = None
    path = tmp_path / "packed"
    for seed in range(COUNT):
        chance = random.Random(seed)
        changed = bytearray(dump)
        changed[0x300:0x340] = chance.randbytes(0x40)  # a comment in the header, so that each is another stream
        way = pack(bytes(changed), chance, path)
        (state,) = load_states(str(path))
        wanted = wanted or state.tags
        assert state.tags == wanted, (seed, way)
