"""Forged machines as opened dumps, and what their own page tables map."""

from __future__ import annotations

import functools
import struct

from dumps.forge import forge
from dumps.forge.containers import KINDS as DUMP_KINDS
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.pagetables import KINDS as PROCESSORS
from tests.helpers.pagetables import PAGE

MEMORY_KINDS = tuple(kind for kind in DUMP_KINDS if kind != 4)
"""The types of dumps that hold physical pages."""

_RANGE_DUMPS = (8, 9, 10)


def memory_kinds(arch):
    """The types that dumps of an architecture have: range dumps are of 64-bit kernels only."""
    return [kind for kind in MEMORY_KINDS if not arch.startswith("x86") or kind not in _RANGE_DUMPS]


BUILDS_OF_ARCH = {
    "x64": (3790, 6002, 7601, 9600, 14393, 17763, 19041, 20348, 22000),
    "x86": (2600, 3790, 6002, 7601),
    "x86pae": (2600, 3790, 6002, 7601, 9600, 15063, 17763, 19041),
    "arm64": (19041, 22000),
}

_PROCESSOR_OF_ARCH = {"x64": "x64", "x86": "x86", "x86pae": "pae", "arm64": "arm64"}

# Where the tables appear as memory: first address and end.
_SELF_MAP = {
    "x64": (0xFFFFF68000000000, 0xFFFFF70000000000),
    "arm64": (0xFFFFF68000000000, 0xFFFFF70000000000),
    "x86": (0xC0000000, 0xC0800000),
    "x86pae": (0xC0000000, 0xC0800000),
}


@functools.lru_cache(maxsize=2)
def unchanged_machine(scenario, **options):
    """The forged machine of a scenario, for tests that come one after another and change nothing in it."""
    return forge(scenario, **options)


class DumpFolder:
    """Saves machines into a folder and opens them; ``close`` closes all of them."""

    def __init__(self, folder):
        self.folder = folder
        self.opened = []

    def open(self, machine, kind=6, edit=None):
        path = self.folder / f"{len(self.opened)}.dmp"
        machine.save(path, kind=kind)
        if edit is not None:
            data = bytearray(path.read_bytes())
            edit(data)
            path.write_bytes(data)
        dump = open_crashdump(str(path))
        self.opened.append(dump)
        return dump

    def close(self):
        for dump in self.opened:
            dump.close()


def mapped_pages(machine, arch):
    """Every kernel page that the machine's own tables map, the tables themselves left out."""
    kind = PROCESSORS[_PROCESSOR_OF_ARCH[arch]]
    first, end = _SELF_MAP[arch]
    for found in _mapped_below(machine.memory.pages, kind, machine.space.root_address, 0, 0):
        address = found | 0xFFFF << 48 if found >> 47 else found
        if not first <= address < end:
            yield address


def _mapped_below(pages, kind, table, level, base):
    shift, bits = kind.levels[level]
    size = struct.calcsize(kind.entry)
    for index in range(1 << bits):
        entry = struct.unpack_from(kind.entry, pages[table // PAGE], table % PAGE + index * size)[0]
        address = base | index << shift
        if not entry or (level + 1 < len(kind.levels) and not entry & 1):
            continue
        if level + 1 == len(kind.levels):
            yield address
        elif _is_large(kind, entry, shift):
            frame = (entry & 0x3FFFFFFFFF000 & -(1 << shift)) // PAGE
            inside = range(frame, frame + (1 << shift) // PAGE)
            yield from (address + (number - frame) * PAGE for number in sorted(pages) if number in inside)
        elif not _is_self_map(kind, address):
            yield from _mapped_below(pages, kind, entry & 0x3FFFFFFFFF000, level + 1, address)


def _is_large(kind, entry, shift):
    return shift in kind.large and (not entry & 2 if kind is PROCESSORS["arm64"] else bool(entry & 0x80))


def _is_self_map(kind, address):
    return address >> 39 == 0x1ED if kind.kernel >> 32 else 0xC0000000 <= address < 0xC0800000 and address & 0x3FFFFFFF


def entry_address(machine, arch, address):
    """Where the page table's entry of an address stands in physical memory."""
    kind = PROCESSORS[_PROCESSOR_OF_ARCH[arch]]
    size = struct.calcsize(kind.entry)
    table = machine.space.root_address
    for shift, bits in kind.levels:
        at = table + (address >> shift & ((1 << bits) - 1)) * size
        table = struct.unpack_from(kind.entry, machine.memory.pages[at // PAGE], at % PAGE)[0] & 0x3FFFFFFFFF000
    return at


def read_entry(machine, arch, address):
    at = entry_address(machine, arch, address)
    code = PROCESSORS[_PROCESSOR_OF_ARCH[arch]].entry
    return struct.unpack_from(code, machine.memory.pages[at // PAGE], at % PAGE)[0]


def write_entry(machine, arch, address, entry):
    at = entry_address(machine, arch, address)
    code = PROCESSORS[_PROCESSOR_OF_ARCH[arch]].entry
    struct.pack_into(code, machine.memory.pages[at // PAGE], at % PAGE, entry)


def loader_entry(machine, name):
    return machine.addresses[f"entry:{name}"]


def loaded_names(machine):
    return [name for name, *_ in machine.truth.modules]


def names(dump, *, unloaded=False):
    return [module.name for module in dump.modules() if module.unloaded == unloaded]


def set_string(machine, at, length, buffer=None):
    """Overwrite a UNICODE_STRING of a 64-bit kernel."""
    machine.write_virtual(at, struct.pack("<HH", length, length))
    if buffer is not None:
        machine.write_virtual(at + 8, struct.pack("<Q", buffer))
