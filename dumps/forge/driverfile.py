"""The sample drivers, loaded as the kernel loads a driver file: sections at their RVAs, relocated."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from dumps.forge import peimage
from dumps.forge.architectures import Architecture
from dumps.forge.peimage import Image, Section

IMAGES = Path(__file__).resolve().parent.parent / "drivers" / "images"

_REGISTER = 0x1F  # the bits of an instruction that name its target

# Sample driver -> the tag in its code or data.
DRIVER_TAGS: Dict[str, bytes] = {
    "pippo.sys": b"Pipo",
    "pagella.sys": b"Pgla",
    "lookas.sys": b"Look",
    "globus.sys": b"Glob",
    "ctxreg.sys": b"Ctxr",
    "twinone.sys": b"Dupl",
    "twintwo.sys": b"Dupl",
    "holder.sys": b"Hldr",
}

_RELOCATED_BYTES = {3: 4, 10: 8}  # IMAGE_REL_BASED_HIGHLOW, IMAGE_REL_BASED_DIR64


def load_driver(path: Path, architecture: Architecture, base: int) -> Image:
    """Return a driver file as it stands in memory at ``base``; its import slots are not bound yet."""
    data = path.read_bytes()
    coff = struct.unpack_from("<I", data, 0x3C)[0] + 4
    section_count, timestamp = struct.unpack_from("<HI", data, coff + 2)
    optional = coff + 20
    optional_bytes = struct.unpack_from("<H", data, coff + 16)[0]
    entry_rva = struct.unpack_from("<I", data, optional + 0x10)[0]
    base_format, base_offset = ("<I", optional + 0x1C) if architecture.narrow else ("<Q", optional + 0x18)
    checksum = struct.unpack_from("<I", data, optional + 0x40)[0]
    preferred_base = struct.unpack_from(base_format, data, base_offset)[0]
    directories = optional + (0x60 if architecture.narrow else 0x70)
    size, headers_bytes = struct.unpack_from("<II", data, optional + 0x38)
    memory = bytearray(size)
    memory[:headers_bytes] = data[:headers_bytes]
    sections: List[Section] = []
    for n in range(section_count):
        header = optional + optional_bytes + 40 * n
        label, length, rva, raw_bytes, raw = struct.unpack_from("<8sIIII", data, header)
        characteristics = struct.unpack_from("<I", data, header + 36)[0]
        sections.append(Section(label.rstrip(b"\0").decode("ascii"), rva, length, characteristics))
        kept = min(length, raw_bytes)
        memory[rva : rva + kept] = data[raw : raw + kept]

    struct.pack_into(base_format, memory, base_offset, base)
    _relocate(memory, _directory(data, directories, peimage.BASE_RELOCATION), base - preferred_base)
    import_rva = _directory(data, directories, peimage.IMPORT)[0]
    imported = list(_iter_imports(memory, import_rva, architecture.pointer_bytes)) if import_rva else []
    export_rva = _directory(data, directories, peimage.EXPORT)[0]
    occupied = [Section("headers", 0, headers_bytes, 0), *sections]
    pieces = [(section.rva, bytes(memory[section.rva : section.rva + section.size])) for section in occupied]
    return Image(
        name=path.name,
        timestamp=timestamp,
        checksum=checksum,
        size=size,
        entry_rva=entry_rva,
        sections=tuple(sections),
        pieces=pieces,
        exports=dict(_iter_exports(memory, export_rva)) if export_rva else {},
        imports={slot: name for slot, name, _ in imported},
        libraries={name: library for _, name, library in imported},
    )


def holds_tag(page: bytes, tag: bytes, architecture: Architecture) -> bool:
    """Return whether a page of an image holds a tag: in one piece, or as the two halves that ARM64 code loads."""
    if tag in page:
        return True
    low, high = struct.unpack("<HH", tag)
    moves = (0x52800000 | low << 5, 0x72A00000 | high << 5)  # movz and movk with lsl #16, into any register
    found = {word & ~_REGISTER for (word,) in struct.iter_unpack("<I", page)}
    return architecture.family == "arm64" and found.issuperset(moves)


def _directory(data: bytes, directories: int, index: int) -> Tuple[int, int]:
    rva, size = struct.unpack_from("<II", data, directories + 8 * index)
    return rva, size


def _relocate(memory: bytearray, directory: Tuple[int, int], delta: int) -> None:
    position, end = directory[0], sum(directory)
    while position < end:
        page_rva, block_bytes = struct.unpack_from("<II", memory, position)
        for (entry,) in struct.iter_unpack("<H", memory[position + 8 : position + block_bytes]):
            size = _RELOCATED_BYTES.get(entry >> 12, 0)
            rva = page_rva + (entry & 0xFFF)
            value = int.from_bytes(memory[rva : rva + size], "little") + delta
            memory[rva : rva + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        position += block_bytes


def _iter_imports(memory: bytearray, rva: int, slot_bytes: int) -> Iterator[Tuple[int, str, str]]:
    """Yield the RVA of each slot, the name of its function, and the name of the module that has it."""
    while True:
        lookup_rva, _, _, library_rva, slots_rva = struct.unpack_from("<5I", memory, rva)
        if not library_rva:
            return
        for offset in range(0, len(memory), slot_bytes):
            lookup = (lookup_rva or slots_rva) + offset
            name_rva = int.from_bytes(memory[lookup : lookup + slot_bytes], "little")
            if not name_rva:
                break
            yield slots_rva + offset, _text(memory, name_rva + 2), _text(memory, library_rva)
        rva += 20


def _iter_exports(memory: bytearray, rva: int) -> Iterator[Tuple[str, int]]:
    count, addresses_rva, names_rva, ordinals_rva = struct.unpack_from("<4I", memory, rva + 24)
    for number in range(count):
        name_rva = struct.unpack_from("<I", memory, names_rva + 4 * number)[0]
        ordinal = struct.unpack_from("<H", memory, ordinals_rva + 2 * number)[0]
        yield _text(memory, name_rva), struct.unpack_from("<I", memory, addresses_rva + 4 * ordinal)[0]


def _text(memory: bytearray, rva: int) -> str:
    return memory[rva : memory.index(0, rva)].decode("ascii")
