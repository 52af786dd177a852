"""Memory of virtual machines, damaged in the container or in the memory that it holds."""

from __future__ import annotations

import os
from functools import lru_cache

from tests.fuzz.cases import Case
from tests.fuzz.damage import IN_PLACE, damage
from tests.targets.machine.conftest import SUFFIXES, WRITERS, make_machine

STRETCH_BYTES = 0x10000
"""Damaged at once: headers and tables of containers are smaller."""


@lru_cache(maxsize=1)
def _find_machine():
    return make_machine(healthy_share=32)


def memory_images(chance, folder):
    """A container of any kind, in some places damaged, or cut."""
    name = chance.choice(sorted(WRITERS))
    path = folder / f"server{SUFFIXES.get(name, '.img')}"
    WRITERS[name](_find_machine(), path)
    damaged = chance.choice(sorted(folder.iterdir()))  # a .vmem has its .vmsn beside it
    with open(damaged, "r+b") as file:
        done = [_damage_stretch(file.fileno(), chance) for _ in range(chance.choice((1, 1, 3, 20)))]
        if chance.random() < 0.3:
            file.truncate(_choose_place(file.fileno(), chance))
            done.append("cut")
    return Case(f"memory as {name}, {damaged.name}: {', '.join(done)}", [["used", str(path), "--format", "json"]])


def _damage_stretch(descriptor, chance):
    at = _choose_place(descriptor, chance)
    data = bytearray(os.pread(descriptor, STRETCH_BYTES, at))
    way = damage(data, chance, IN_PLACE)
    os.pwrite(descriptor, data, at)
    return f"{way} at 0x{at:x}"


def _choose_place(descriptor, chance):
    """Where a stretch begins: the file's first one, or any that is no hole."""
    size = os.fstat(descriptor).st_size
    if chance.random() < 0.5:
        return 0 if chance.random() < 0.9 else chance.randrange(min(size, STRETCH_BYTES))
    try:
        return os.lseek(descriptor, chance.randrange(size) & -STRETCH_BYTES, os.SEEK_DATA)
    except OSError:  # nothing but a hole follows
        return 0
