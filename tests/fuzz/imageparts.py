"""Damage to the parts of images and PDBs that have a structure of their own, not to whatever a chance byte hits."""

from __future__ import annotations

import struct

from tests.fuzz.cases import Case
from tests.fuzz.damage import IN_PLACE, PAGE, damage
from tests.fuzz.dumps import choose_machine, dump_case
from tests.fuzz.files import DRIVERS, KERNEL_PDB, symbols_case

_RESOURCES, _EXCEPTIONS, _DEBUG = 2, 3, 6
_PE_OFFSET_AT, _OPTIONAL = 0x3C, 24
_FIRST_BYTES = 256
_MSF_HEADER = 0x20


def _find_directory(head, number):
    """RVA and size of a data directory, by the header of an image."""
    (pe,) = struct.unpack_from("<I", head, _PE_OFFSET_AT)
    (magic,) = struct.unpack_from("<H", head, pe + _OPTIONAL)
    return struct.unpack_from("<II", head, pe + _OPTIONAL + (112 if magic == 0x20B else 96) + 8 * number)


def _find_offset(data, rva):
    """Where in the file an RVA stands."""
    (pe,) = struct.unpack_from("<I", data, _PE_OFFSET_AT)
    count, optional = struct.unpack_from("<H12xH", data, pe + 6)
    for section in range(count):
        size, start, raw_size, raw = struct.unpack_from("<IIII", data, pe + _OPTIONAL + optional + 40 * section + 8)
        if start <= rva < start + max(size, raw_size):
            return raw + rva - start
    return None


def _damage_part_in_memory(chance, folder, number, name):
    machine, kind = choose_machine(chance)
    done = []
    for module, base, _, _ in chance.sample(machine.truth.modules, min(6, len(machine.truth.modules))):
        try:
            rva, size = _find_directory(machine.read_virtual(base, PAGE), number)
            at = base + rva + chance.randrange(max(min(size, _FIRST_BYTES), 1))
            length = min(PAGE - at % PAGE, _FIRST_BYTES)
            data = bytearray(machine.read_virtual(at, length))
            if not size:
                continue
            how = damage(data, chance, IN_PLACE)
            machine.write_virtual(at, bytes(data))
        except (ValueError, struct.error):
            continue
        done.append(f"{module} {how}")
    case = dump_case(machine, kind, chance, folder, f"{name}: {', '.join(done)}")
    case.owners = None
    return case


def _damage_part_of_files(chance, folder, number, name):
    done = []
    for source in chance.sample(DRIVERS, 4):
        data = bytearray(source.read_bytes())
        rva, size = _find_directory(data, number)
        at = _find_offset(data, rva) if size else None
        if at is not None:
            for _ in range(chance.choice((1, 1, 4))):
                done.append(damage(data, chance, IN_PLACE, at, at + min(size, chance.choice((16, 64, 4096)))))
        (folder / source.name).write_bytes(data)
    words = ["find", "Pipo", "Dupl", "--images", str(folder), "--jobs", "1", "--format", "json"]
    return Case(f"{name} of files: {', '.join(done)}", [words])


def unwind_data(chance, folder):
    """The tables of functions (.pdata), in memory and in files."""
    damage_part = _damage_part_in_memory if chance.random() < 0.6 else _damage_part_of_files
    return damage_part(chance, folder, _EXCEPTIONS, ".pdata")


def version_resources(chance, folder):
    """The trees of resources with the version, in memory and in files."""
    damage_part = _damage_part_in_memory if chance.random() < 0.6 else _damage_part_of_files
    return damage_part(chance, folder, _RESOURCES, "version resource")


def debug_directories(chance, folder):
    """What names an image's PDB."""
    return _damage_part_in_memory(chance, folder, _DEBUG, "debug directory")


def pdb_streams(chance, folder):
    """The header of a PDB, its directory of streams, and the first bytes of a stream."""

    def edit(data):
        block_bytes, _, _, directory_bytes, _, map_block = struct.unpack_from("<6I", data, _MSF_HEADER)
        (first,) = struct.unpack_from("<I", data, map_block * block_bytes)
        directory = first * block_bytes
        (count,) = struct.unpack_from("<I", data, directory)
        place = chance.choice(("superblock", "map", "directory", "stream", "stream"))
        if place == "stream":
            blocks_at = directory + 4 + 4 * min(count, (block_bytes - 8) // 4)
            (block,) = struct.unpack_from("<I", data, blocks_at + 4 * chance.randrange(min(count, 16)))
            start, size = block * block_bytes, chance.choice((64, 256, block_bytes))
        else:
            start, size = {
                "superblock": (_MSF_HEADER, 24),
                "map": (map_block * block_bytes, 16),
                "directory": (directory, min(directory_bytes, 4 * count + 256)),
            }[place]
        return f"{place} {damage(data, chance, IN_PLACE, min(start, len(data) - 1), start + size)}"

    return symbols_case(chance, folder, edit, KERNEL_PDB)
