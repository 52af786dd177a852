"""The sample drivers, loaded as the kernel loads a driver file: sections at their RVAs, relocated."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from dumps.forge import peimage
from dumps.forge.peimage import Image, Section

IMAGES = Path(__file__).resolve().parent.parent / "drivers" / "images" / "x64"

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

_RELOCATION_DIR64 = 10


def load_driver(name: str, base: int) -> Image:
    """Return the sample driver as it stands in memory at ``base``; its import slots are not bound yet."""
    data = (IMAGES / name).read_bytes()
    coff = struct.unpack_from("<I", data, 0x3C)[0] + 4
    section_count, timestamp = struct.unpack_from("<HI", data, coff + 2)
    optional = coff + 20
    optional_bytes = struct.unpack_from("<H", data, coff + 16)[0]
    entry_rva = struct.unpack_from("<I", data, optional + 0x10)[0]
    preferred_base = struct.unpack_from("<Q", data, optional + 0x18)[0]
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

    struct.pack_into("<Q", memory, optional + 0x18, base)
    _relocate(memory, _directory(data, optional, peimage.BASE_RELOCATION), base - preferred_base)
    import_rva = _directory(data, optional, peimage.IMPORT)[0]
    imports = dict(_iter_imports(memory, import_rva)) if import_rva else {}
    occupied = [Section("headers", 0, headers_bytes, 0), *sections]
    pieces = [(section.rva, bytes(memory[section.rva : section.rva + section.size])) for section in occupied]
    return Image(
        name=name,
        timestamp=timestamp,
        size=size,
        entry_rva=entry_rva,
        sections=tuple(sections),
        pieces=pieces,
        imports=imports,
    )


def _directory(data: bytes, optional: int, index: int) -> Tuple[int, int]:
    rva, size = struct.unpack_from("<II", data, optional + 0x70 + 8 * index)
    return rva, size


def _relocate(memory: bytearray, directory: Tuple[int, int], delta: int) -> None:
    position, end = directory[0], sum(directory)
    while position < end:
        page_rva, block_bytes = struct.unpack_from("<II", memory, position)
        for (entry,) in struct.iter_unpack("<H", memory[position + 8 : position + block_bytes]):
            if entry >> 12 == _RELOCATION_DIR64:
                rva = page_rva + (entry & 0xFFF)
                value = struct.unpack_from("<Q", memory, rva)[0] + delta
                struct.pack_into("<Q", memory, rva, value & 0xFFFFFFFFFFFFFFFF)
        position += block_bytes


def _iter_imports(memory: bytearray, rva: int) -> Iterator[Tuple[int, str]]:
    while True:
        lookup_rva, _, _, library_rva, slots_rva = struct.unpack_from("<5I", memory, rva)
        if not library_rva:
            return
        for slot, (name_rva,) in enumerate(struct.iter_unpack("<Q", memory[lookup_rva or slots_rva :][: 8 * 512])):
            if not name_rva:
                break
            yield slots_rva + 8 * slot, _text(memory, name_rva + 2)
        rva += 20


def _text(memory: bytearray, rva: int) -> str:
    return memory[rva : memory.index(0, rva)].decode("ascii")
