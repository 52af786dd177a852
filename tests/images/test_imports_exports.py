"""Import and export tables: their forms, with holes, without end, and full of lies."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.images.exports import MAX_EXPORTS, read_exports
from pykdext.images.image import read_image
from pykdext.images.imports import MAX_SLOTS, ImportSlot, read_imports
from pykdext.model import Machine, Module
from tests.helpers.patience import ends_soon
from tests.helpers.peimages import CODE, CONSTANTS, DELAY_IMPORT, EXPORT, IMPORT, PAGE, X64, X86, Part, build_memory
from tests.helpers.segments import SegmentsTarget

BASE, NARROW_BASE = 0x140000000, 0x400000
DISCARDABLE = CONSTANTS | 0x02000000
TEXT = Part(b".text", PAGE, b"\xc3" * PAGE, CODE)
TABLES_RVA = 2 * PAGE


def open_image(memory, missing, base, machine):
    holes = {rva - rva % PAGE for rva in missing}
    pages = {base + rva: memory[rva : rva + PAGE] for rva in range(0, len(memory), PAGE) if rva not in holes}
    target = SegmentsTarget(pages, machine=machine, modules=(Module("made.sys", base, len(memory)),))
    return read_image(target, target.modules()[0])


class Tables:
    """Bytes at TABLES_RVA that are filled from the front."""

    def __init__(self):
        self.data = bytearray()

    def add(self, data):
        rva = TABLES_RVA + len(self.data)
        self.data += data + b"\0" * (-len(data) % 16)
        return rva

    def image(self, *, machine=X64, missing=(), flags=CONSTANTS, **directories):
        numbers = {"exports": EXPORT, "imports": IMPORT, "delayed": DELAY_IMPORT}
        data = bytes(self.data).ljust(2 * PAGE, b"\0")
        base = BASE if machine == X64 else NARROW_BASE
        memory = build_memory(
            TEXT,
            Part(b".rdata", TABLES_RVA, data, flags),
            base=base,
            machine=machine,
            directories={numbers[name]: place for name, place in directories.items()},
        )
        return open_image(memory, missing, base, Machine.X86 if machine == X86 else Machine.X64)


def import_table(tables, names, width=8, lookup=True):
    """A table of one library; ``names`` are names or ordinals. The descriptor, and where its slots are."""
    by_ordinal = 1 << (8 * width - 1)
    entries = [
        name | by_ordinal if isinstance(name, int) else tables.add(b"\x12\0" + name.encode() + b"\0") for name in names
    ]
    packed = b"".join(entry.to_bytes(width, "little") for entry in (*entries, 0))
    library = tables.add(b"ntoskrnl.exe\0")
    lookup_rva, slots_rva = tables.add(packed), tables.add(b"\xfe" * len(packed) if lookup else packed)
    return struct.pack("<I8xII", lookup_rva if lookup else 0, library, slots_rva), slots_rva


def test_imports_by_name_and_ordinal():
    for machine, width in ((X64, 8), (X86, 4)):
        tables = Tables()
        descriptor, slots = import_table(tables, ["ExAllocatePoolWithTag", 17], width)
        directory = tables.add(descriptor + bytes(20))
        assert read_imports(tables.image(machine=machine, imports=(directory, 40))) == (
            ImportSlot(slots, "ntoskrnl.exe", "ExAllocatePoolWithTag", None),
            ImportSlot(slots + width, "ntoskrnl.exe", None, 17),
        )


def test_imports_without_a_lookup_table_are_read_from_the_slots():
    tables = Tables()
    descriptor, slots = import_table(tables, ["IoCreateDevice"], lookup=False)
    directory = tables.add(descriptor + bytes(20))
    assert read_imports(tables.image(imports=(directory, 40))) == (
        ImportSlot(slots, "ntoskrnl.exe", "IoCreateDevice", None),
    )


def test_delay_imports_by_rva_and_by_address():
    for attributes, base, machine in ((1, 0, X64), (0, NARROW_BASE, X86)):
        width = 4 if machine == X86 else 8
        tables = Tables()
        name, library = tables.add(b"\0\0FltRegisterFilter\0"), tables.add(b"fltmgr.sys\0")
        lookup, slots = tables.add(name.to_bytes(width, "little") + bytes(8)), tables.add(bytes(16))
        descriptor = struct.pack("<II4xII12x", attributes, base + library, base + slots, base + lookup)
        directory = tables.add(descriptor + bytes(32))
        assert read_imports(tables.image(machine=machine, delayed=(directory, 64))) == (
            ImportSlot(slots, "fltmgr.sys", "FltRegisterFilter", None),
        )


@pytest.mark.parametrize("flags", [CONSTANTS, DISCARDABLE])
def test_an_import_table_that_is_gone_gives_nothing_and_is_said_where_it_should_be_there(flags):
    tables = Tables()
    descriptor, _ = import_table(tables, ["ExFreePool"])
    directory = tables.add(descriptor + bytes(20))
    image = tables.image(flags=flags, imports=(directory, 40), missing=[TABLES_RVA])
    for _ in range(2):
        assert read_imports(image) == ()
    said = [f"made.sys: import table at 0x{directory:x} is not in memory"]
    assert image.warnings == (said if flags == CONSTANTS else [])


def test_names_that_are_not_in_memory_leave_their_slots():
    tables = Tables()
    far = TABLES_RVA + PAGE + 0x10
    lookup, slots = tables.add(struct.pack("<QQ", far, 0)), tables.add(bytes(16))
    library = tables.add(b"ndis.sys\0")
    directory = tables.add(struct.pack("<I8xII", lookup, library, slots) + bytes(20))
    image = tables.image(imports=(directory, 40), missing=[far])
    assert read_imports(image) == (ImportSlot(slots, "ndis.sys", None, None),)


@ends_soon
def test_import_tables_without_end_are_bounded():
    tables = Tables()
    library = tables.add(b"loop.sys\0")
    tables.add(struct.pack("<I8xII", PAGE, library, PAGE) * 300)
    image = tables.image(imports=(TABLES_RVA + 16, 0xFFFFFFFF))
    slots = read_imports(image)
    assert 0 < len(slots) <= MAX_SLOTS


def export_table(tables, names, rvas, *, ordinals=None, forwarders=()):
    functions = [*rvas]
    directory = tables.add(bytes(40))
    for index, text in forwarders:
        functions[index] = tables.add(text.encode() + b"\0")
    end = TABLES_RVA + len(tables.data)
    name_rvas = [tables.add(name.encode() + b"\0") for name in names]
    places = [
        tables.add(struct.pack(f"<{len(functions)}I", *functions)),
        tables.add(struct.pack(f"<{len(names)}I", *name_rvas)),
        tables.add(struct.pack(f"<{len(names)}H", *(ordinals or range(len(names))))),
    ]
    start = directory - TABLES_RVA
    tables.data[start : start + 40] = struct.pack("<16xIIIIII", 1, len(functions), len(names), *places)
    return directory, end - directory


def test_exports_by_name_and_place():
    tables = Tables()
    place = export_table(tables, ["Alpha", "Beta", "Gamma", "Same"], [PAGE, PAGE + 8, 0], ordinals=[1, 0, 2, 1])
    exports = read_exports(tables.image(exports=place))
    assert exports.rvas == {"Alpha": PAGE + 8, "Beta": PAGE, "Same": PAGE + 8}
    assert exports.rvas["Alpha"] == PAGE + 8
    assert "Gamma" not in exports.rvas, "no function stands there"
    assert exports.name_at(PAGE + 8) == "Alpha", "the first of two"
    assert exports.name_at(PAGE + 1) is None, "exact places only"
    assert exports.warnings == ()


def test_forwarders_are_no_functions():
    tables = Tables()
    place = export_table(tables, ["Here", "There"], [PAGE, 0], forwarders=[(1, "OTHER.Function")])
    assert read_exports(tables.image(exports=place)).rvas == {"Here": PAGE}


def test_exports_with_holes_are_partial_and_say_so():
    tables = Tables()
    tables.add(bytes(PAGE - 0x80))
    place = export_table(tables, [f"Function{index}" for index in range(20)], [PAGE + index for index in range(20)])
    whole = read_exports(tables.image(exports=place))
    assert len(whole.rvas) == 20
    partial = read_exports(tables.image(exports=place, missing=[TABLES_RVA + PAGE]))
    assert partial.rvas == {}
    assert partial.warnings == ("20 of 20 exported names are not in memory",)
    gone = read_exports(tables.image(exports=place, missing=[TABLES_RVA]))
    assert gone.rvas == {}
    assert gone.warnings == ("the export table is not in memory",)


@ends_soon
def test_counts_of_exports_that_lie_are_bounded():
    tables = Tables()
    directory = tables.add(struct.pack("<16xIIIIII", 1, *[0xFFFFFFFF] * 2, PAGE, PAGE, PAGE))
    exports = read_exports(tables.image(exports=(directory, 40)))
    assert len(exports.rvas) <= MAX_EXPORTS


@given(st.data())
def test_tables_of_any_bytes_never_fail(data):
    tables = Tables()
    descriptor, _ = import_table(tables, ["ExAllocatePoolWithTag", 17])
    imports = tables.add(descriptor + bytes(20))
    exports = export_table(tables, ["Alpha", "Beta"], [PAGE, PAGE + 8])
    for _ in range(data.draw(st.integers(1, 10))):
        offset = data.draw(st.integers(0, len(tables.data) - 4))
        tables.data[offset : offset + 4] = data.draw(
            st.one_of(st.binary(min_size=4, max_size=4), st.integers(0, 4 * PAGE).map(lambda n: struct.pack("<I", n)))
        )
    places = {"imports": (imports, 40), "exports": exports, "delayed": (data.draw(st.integers(0, 5 * PAGE)), 64)}
    image = tables.image(machine=data.draw(st.sampled_from([X86, X64])), **places)
    assert len(read_imports(image)) <= MAX_SLOTS
    found = read_exports(image)
    assert all(name.isprintable() and found.rvas[name] == rva for name, rva in found.rvas.items())
