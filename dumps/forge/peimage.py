"""PE32 and PE32+ images as they stand in memory (Microsoft "PE Format"): headers and directories of drivers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Tuple

from dumps.forge.architectures import Architecture

SECTION_ALIGNMENT = 0x1000
CODE = 0x68000020  # code, not paged, execute, read
DISCARDABLE_CODE = 0x62000020
PAGEABLE_CODE = 0x60000020
READ_ONLY_DATA = 0x48000040
WRITABLE_DATA = 0xC8000040
RESOURCES = 0x42000040

EXPORT, IMPORT, RESOURCE, EXCEPTION, BASE_RELOCATION, DEBUG, IMPORT_ADDRESS_TABLE = 0, 1, 2, 3, 5, 6, 12

_HEADERS_OFFSET = 0x80  # of the COFF header, behind the DOS header
_CHECKSUM_OFFSET = _HEADERS_OFFSET + 0x58
_LIBRARY = 0x2000

_DISCARDABLE = 0x02000000
_EXECUTE = 0x20000000


@dataclass(frozen=True)
class Section:
    """One section: ``size`` is its size in memory, in bytes."""

    name: str
    rva: int
    size: int
    characteristics: int

    @property
    def discarded(self) -> bool:
        """True for what the kernel frees once the driver is started; resources stay although they are marked."""
        return bool(self.characteristics & _DISCARDABLE) and self.name != ".rsrc"

    @property
    def executable(self) -> bool:
        """True for code."""
        return bool(self.characteristics & _EXECUTE)


@dataclass
class Image:
    """An image by RVA: ``pieces`` holds (rva, bytes) of everything that is not zero.

    ``exports`` maps a function to its RVA, ``imports`` the RVA of an import slot to the function it is bound to, and
    ``libraries`` that function to the module which the file imports it from.
    """

    name: str
    timestamp: int
    checksum: int
    size: int
    entry_rva: int
    sections: Tuple[Section, ...]
    pieces: List[Tuple[int, bytes]] = field(default_factory=list)
    exports: Dict[str, int] = field(default_factory=dict)
    imports: Dict[int, str] = field(default_factory=dict)
    libraries: Dict[str, str] = field(default_factory=dict)

    def section_of(self, rva: int) -> Section:
        """Return the section that holds an RVA; the headers count as a read-only one."""
        for section in self.sections:
            if section.rva <= rva < section.rva + section.size:
                return section
        return Section("headers", 0, SECTION_ALIGNMENT, READ_ONLY_DATA)


def build_headers(
    architecture: Architecture,
    name: str,
    sections: Sequence[Section],
    directories: Dict[int, Tuple[int, int]],
    *,
    base: int,
    entry_rva: int,
    timestamp: int,
    size: int,
) -> bytes:
    """Return the DOS, COFF and optional headers and the section table; ``directories`` is index -> (rva, size).

    The checksum is left zero.
    """
    dos = bytearray(_HEADERS_OFFSET)
    struct.pack_into("<2s", dos, 0, b"MZ")
    struct.pack_into("<I", dos, 0x3C, len(dos))
    narrow = architecture.narrow
    optional = bytearray(0xE0 if narrow else 0xF0)
    characteristics = 0x102 if narrow else 0x22  # executable; 32-bit machine, or large addresses
    characteristics |= _LIBRARY if name.endswith(".dll") else 0
    coff = struct.pack("<4sHHIII", b"PE\0\0", architecture.machine, len(sections), timestamp, 0, 0)
    coff += struct.pack("<HH", len(optional), characteristics)
    code = [section for section in sections if section.characteristics & 0x20]
    struct.pack_into("<HBB", optional, 0, 0x10B if narrow else 0x20B, 14, 20)
    struct.pack_into("<I", optional, 4, sum(section.size for section in code))
    struct.pack_into("<II", optional, 0x10, entry_rva, code[0].rva if code else 0)
    struct.pack_into("<II" if narrow else "<Q", optional, 0x18, *((0, base) if narrow else (base,)))
    struct.pack_into("<II", optional, 0x20, SECTION_ALIGNMENT, SECTION_ALIGNMENT)
    struct.pack_into("<6H", optional, 0x28, 10, 0, 10, 0, 10, 0)
    struct.pack_into("<II", optional, 0x38, size, SECTION_ALIGNMENT)
    # Subsystem native; NX, dynamic base and, where there is room, high-entropy addresses.
    struct.pack_into("<HH", optional, 0x44, 1, 0x4140 if narrow else 0x4160)
    struct.pack_into("<4I" if narrow else "<4Q", optional, 0x48, 0x40000, 0x1000, 0x100000, 0x1000)
    directories_offset = len(optional) - 16 * 8
    struct.pack_into("<I", optional, directories_offset - 4, 16)
    for index, (rva, length) in directories.items():
        struct.pack_into("<II", optional, directories_offset + 8 * index, rva, length)
    table = b"".join(
        struct.pack(
            "<8sIIIIIIHHI",
            section.name.encode("ascii"),
            section.size,
            section.rva,
            section.size,
            section.rva,
            *(0, 0, 0, 0),
            section.characteristics,
        )
        for section in sections
    )
    return bytes(dos) + coff + bytes(optional) + table


def add_checksum(pieces: Sequence[Tuple[int, bytes]], size: int) -> Tuple[List[Tuple[int, bytes]], int]:
    """Return the pieces of an image, headers first, with the checksum of its file, and the checksum.

    The file is as long as the image, and each section stands in it where it does in memory.
    """
    words = sum(sum(word for (word,) in struct.iter_unpack("<H", data + bytes(len(data) % 2))) for _, data in pieces)
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    checksum = words + size
    headers = bytearray(pieces[0][1])
    struct.pack_into("<I", headers, _CHECKSUM_OFFSET, checksum)
    return [(0, bytes(headers)), *pieces[1:]], checksum


def build_exports(rva: int, image_name: str, functions: Dict[str, int]) -> bytes:
    """Return an export directory that stands at ``rva`` and names every function."""
    names = sorted(functions)
    count = len(names)
    addresses_rva = rva + 0x28
    names_rva = addresses_rva + 4 * count
    ordinals_rva = names_rva + 4 * count
    strings_rva = ordinals_rva + 2 * count
    strings = image_name.encode("ascii") + b"\0"
    name_rvas = []
    for name in names:
        name_rvas.append(strings_rva + len(strings))
        strings += name.encode("ascii") + b"\0"
    directory = struct.pack(
        "<IIHHIIIIIII",
        *(0, 0, 0, 0),
        strings_rva,
        1,
        count,
        count,
        addresses_rva,
        names_rva,
        ordinals_rva,
    )
    return (
        directory
        + struct.pack(f"<{count}I", *(functions[name] for name in names))
        + struct.pack(f"<{count}I", *name_rvas)
        + struct.pack(f"<{count}H", *range(count))
        + strings
    )


def build_imports(
    architecture: Architecture, rva: int, libraries: Dict[str, Sequence[str]]
) -> Tuple[bytes, Dict[str, int], Tuple[int, int]]:
    """Return an import directory for ``rva``, the RVA of each function's slot, and the slots' (rva, size).

    The slots still hold what the file holds: the loader binds them.
    """
    descriptors_bytes = 0x14 * (len(libraries) + 1)
    slot_count = sum(len(names) + 1 for names in libraries.values())
    slots_bytes = slot_count * architecture.pointer_bytes
    lookup_rva = rva + (descriptors_bytes + 7 & ~7)
    slots_rva = lookup_rva + slots_bytes
    strings_rva = slots_rva + slots_bytes
    descriptors, strings, lookups = b"", b"", b""
    slots: Dict[str, int] = {}
    for library, names in libraries.items():
        offset = len(lookups)
        for name in names:
            slots[name] = slots_rva + len(lookups)
            lookups += architecture.pack_pointers(strings_rva + len(strings))
            strings += b"\0\0" + name.encode("ascii") + b"\0" * (2 - len(name) % 2)
        lookups += bytes(architecture.pointer_bytes)
        library_rva = strings_rva + len(strings)
        strings += library.encode("ascii") + b"\0"
        descriptors += struct.pack("<5I", lookup_rva + offset, 0, 0, library_rva, slots_rva + offset)
    head = descriptors.ljust(lookup_rva - rva, b"\0")
    return head + lookups + lookups + strings, slots, (slots_rva, slots_bytes)


def build_debug(rva: int, guid: str, age: int, pdb_name: str, timestamp: int) -> Tuple[bytes, int]:
    """Return a debug directory (one CodeView entry, then its RSDS record) for ``rva``, and the directory's size.

    ``guid`` is the text form of symbol servers: its first three groups are numbers.
    """
    numbers = (int(guid[:8], 16), int(guid[8:12], 16), int(guid[12:16], 16))
    record = b"RSDS" + struct.pack("<IHH", *numbers) + bytes.fromhex(guid[16:]) + struct.pack("<I", age)
    record += pdb_name.encode("ascii") + b"\0"
    record_rva = rva + 0x1C
    entry = struct.pack("<IIHHIIII", 0, timestamp, 0, 0, 2, len(record), record_rva, record_rva)
    return entry + record, len(entry)


def build_version_resource(rva: int, version: Tuple[int, int, int, int], texts: Dict[str, str]) -> bytes:
    """Return a resource directory for ``rva`` whose only resource is VS_VERSIONINFO, US English."""
    info = _version_info(version, texts)
    data_rva = rva + 0x58
    directory = b""
    for level, (name, child) in enumerate(((16, 0x18), (1, 0x30), (0x409, 0x48))):
        pointer = child | (0x80000000 if level < 2 else 0)
        directory += struct.pack("<IIHHHHII", 0, 0, 0, 0, 0, 1, name, pointer)
    return directory + struct.pack("<IIII", data_rva, len(info), 0, 0) + info


def _version_info(version: Tuple[int, int, int, int], texts: Dict[str, str]) -> bytes:
    major, minor, build, revision = version
    numbers = (major << 16 | minor, build << 16 | revision)
    fixed = struct.pack("<13I", 0xFEEF04BD, 0x10000, *numbers, *numbers, 0x3F, 0, 0x40004, 3, 7, 0, 0)
    strings = b""
    for key, text in texts.items():
        strings += _version_node(key, text=text)
    language, code_page = 0x409, 0x4B0
    table = _version_node(f"{language:04X}{code_page:04X}", children=strings)
    translation = _version_node("Translation", value=struct.pack("<HH", language, code_page))
    files = _version_node("StringFileInfo", children=table) + _version_node("VarFileInfo", children=translation)
    return _version_node("VS_VERSION_INFO", value=fixed, children=files)


def _version_node(key: str, *, value: bytes = b"", text: str = "", children: bytes = b"") -> bytes:
    head = _align4(bytes(6) + key.encode("utf-16-le") + b"\0\0")
    value_length = len(value)
    if text:
        value, value_length = text.encode("utf-16-le") + b"\0\0", len(text) + 1
    body = head + (_align4(value) + children if children else value)
    is_text = 0 if value_length == len(value) and value else 1
    return _align4(struct.pack("<HHH", len(body), value_length, is_text) + body[6:])


def _align4(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
