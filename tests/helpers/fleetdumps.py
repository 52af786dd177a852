"""Twenty-eight forged dumps of twelve hosts: one damaged, one truncated, one that never answers."""

from __future__ import annotations

import datetime
import os
import random
import struct

from dumps.forge import forge
from dumps.forge.architectures import X64
from dumps.forge.assemble import assemble_machine
from dumps.forge.plan import Scenario, Wishes
from dumps.forge.privatekernels import choose_kernel
from dumps.forge.trackertables import TagTruth

BUILDS = (7601, 17763, 19041)
LEAKING = tuple(f"WEB{number:02}" for number in range(1, 8))
TIME_AT = 0xFA8
_ORIGIN = datetime.datetime(1601, 1, 1, tzinfo=datetime.timezone.utc)
_VERSION = struct.Struct("<IIHHHH")  # of VS_FIXEDFILEINFO: signature, structure, minor, major, revision, build
_FIXED = (0xFEEF04BD, 0x10000)

_MENDED = Scenario(
    "mended", "pippo.sys frees what it allocates", tags={b"Pipo": TagTruth(4_000, 3_990, 4_320)}, drivers=("pippo.sys",)
)


def forge_mended(build, seed):
    """A machine that has pippo.sys and does not leak."""
    kernel = choose_kernel(build, X64, random.Random(f"identity x64 {build} {seed}"))
    return assemble_machine(_MENDED, kernel, Wishes(4, kernel.default_rows, seed))


def set_version(path, old, new):
    """Change the version of a driver in the dump."""
    data = path.read_bytes()
    before, after = (_VERSION.pack(*_FIXED, v[1], v[0], v[3], v[2]) for v in (old, new))
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))


def set_time(path, moment):
    """Change when a 64-bit dump says that it was taken."""
    with open(path, "r+b") as file:
        file.seek(TIME_AT)
        file.write(struct.pack("<Q", int((moment - _ORIGIN).total_seconds()) * 10_000_000))


def write_fleet(folder):
    """Write the dumps into a folder for each host, and return their paths."""
    paths = []

    def save(host, machine):
        path = folder / host / f"MEMORY-{len(paths)}.DMP"
        path.parent.mkdir(parents=True, exist_ok=True)
        machine.save(path)
        paths.append(path)
        return path

    for number in range(14):
        save(LEAKING[number % 7], forge("pipo", build=BUILDS[number // 7], seed=number))
    for number in range(2):
        save("WEB08", forge_mended(BUILDS[number % 3], number))
    for number in range(2):
        path = save("WEB09", forge_mended(BUILDS[number % 3], number))
        set_version(path, (1, 4, 2, 0), (1, 5, 0, 0))
    for number in range(3):
        save("DB01", forge("paged", build=BUILDS[number % 3], seed=number))
    for number in range(3):
        save("DB02", forge("quiet", build=BUILDS[number], seed=number))
    save("APP01", forge("quiet"))
    damaged = save("APP01", forge("pipo", seed=91))
    data = bytearray(damaged.read_bytes())
    data[0x2000:0x2008] = b"\xff" * 8
    damaged.write_bytes(data)
    truncated = save("APP01", forge("pipo", seed=92))
    os.truncate(truncated, 0x2020)
    hanging = folder / "APP01" / "MEMORY-hanging.DMP"
    os.mkfifo(hanging)
    return [*paths, hanging]
