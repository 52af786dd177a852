"""Dumps of forged machines, damaged in the file or in the memory that it holds."""

from __future__ import annotations

import struct
from dataclasses import replace

from dumps.forge import forge
from dumps.forge.entryformats import VALID
from tests.fuzz.cases import Case
from tests.fuzz.damage import ANYHOW, IN_PLACE, PAGE, damage
from tests.helpers.forgedumps import BUILDS_OF_ARCH

SCENARIOS = ("pipo", "pipo", "quiet", "paged", "toke", "twins")
KINDS = (1, 5, 6, 6, 6, 7, 8, 9, 10, 2, 4)
_RANGE_KINDS = (8, 9, 10)
_KERNEL_BITMAP = 6


def choose_machine(chance):
    """A machine of any build and processor, and a type of dump that it can have."""
    arch = chance.choice(("x64", "x64", "x64", "x86", "x86pae", "arm64"))
    build = chance.choice(BUILDS_OF_ARCH[arch])
    scenario = chance.choice(SCENARIOS)
    machine = forge(scenario, build=build, arch=arch, processors=chance.choice((1, 2, 4)), seed=chance.randrange(4))
    kind = chance.choice([kind for kind in KINDS if not (arch.startswith("x86") and kind in _RANGE_KINDS)])
    machine.frames = frozenset(machine.memory.pages)
    return machine, kind


def numbers_of(machine):
    """The six counters of each tag, as the forge wrote them."""
    return {
        tag.hex(): (
            *(truth.nonpaged_allocs, truth.nonpaged_frees, truth.nonpaged_bytes),
            *(truth.paged_allocs, truth.paged_frees, truth.paged_bytes),
        )
        for tag, truth in machine.truth.tags.items()
    }


def owners_of(machine):
    """The modules that carry each tag, as the forge knows."""
    return {tag.hex(): tuple(name.lower() for name in names) for tag, names in machine.truth.owners.items()}


def _forget_new_frames(machine):
    """Frames that came into being where the forge followed damaged tables."""
    for frame in machine.memory.pages.keys() - machine.frames:
        del machine.memory.pages[frame]


def commands_on(path, chance, tag="Pipo"):
    """The numbers always, and one more command."""
    more = chance.choice(
        (
            ["analyze", path, "--format", "json"],
            ["analyze", path, "--format", "json"],
            ["analyze", path],
            ["blocks", tag, path, "--format", "json"],
            ["find", tag, path, "--format", "json"],
            ["used", path, "--view", "poolused"],
            ["diff", path, path],
        )
    )
    return [["used", path, "--format", "json"], more]


def dump_case(machine, kind, chance, folder, how, *, is_judged=True, edit=None, suffix=""):
    """The case of a machine whose memory was damaged, or whose file ``edit`` damages; a packed one by its suffix."""
    path = folder / f"MEMORY.DMP{suffix}"
    _forget_new_frames(machine)
    try:
        machine.save(path, kind=kind)
    except ValueError:  # a small dump is written by what the damaged memory maps
        _forget_new_frames(machine)
        machine.save(path, kind=_KERNEL_BITMAP)
    if edit is not None:
        data = bytearray(path.read_bytes())
        how = f"{how} {edit(data)}"
        path.write_bytes(data)
    told = f"{machine.truth.machine} {machine.truth.build} type {kind}: {how}"
    numbers = numbers_of(machine) if is_judged else None
    owners = owners_of(machine) if is_judged else None
    return Case(told, commands_on(str(path), chance), numbers, owners)


def headers(chance, folder):
    """The header of the file, and what stands behind it: runs, bitmap, ranges."""
    machine, kind = choose_machine(chance)
    stop = chance.choice((0x1000, 0x2000, 0x2000, 0x4000))
    start = chance.choice((0, 0, 0x2000)) if stop > 0x2000 else 0
    return dump_case(
        machine, kind, chance, folder, "header:", edit=lambda data: damage(data, chance, IN_PLACE, start, stop)
    )


_BITMAP = {2: (0x10, "<I"), 5: (0x30, "<Q"), 6: (0x30, "<Q"), 7: (0x30, "<Q")}
"""Where behind the header, and in what form, a dump with a bitmap counts its bits, by its type."""


def _find_map(machine, kind):
    """Where the header behind the dump's own begins, and the map of pages."""
    start = 0x1000 if machine.truth.machine == "x86" else 0x2000
    return start, start + (0x38 if kind != 2 else 0x20 if start == 0x1000 else 0x28)


def _read_map(machine, kind, data):
    """How many bits the map has, and which pages it marks."""
    (offset, form), (start, place) = _BITMAP[kind], _find_map(machine, kind)
    (bits,) = struct.unpack_from(form, data, start + offset)
    return bits, [number for number in machine.memory.pages if data[place + number // 8] >> number % 8 & 1]


def bitmaps(chance, folder):
    """One wrong bit, or some near each other, in the map of pages: whatever is read then must be of the right page."""
    machine, kind = choose_machine(chance)
    kind = kind if kind in _BITMAP else _KERNEL_BITMAP
    _, place = _find_map(machine, kind)

    def flip(data):
        bits, marked = _read_map(machine, kind, data)
        page = chance.choice(marked) if chance.random() < 0.7 else chance.randrange(bits)
        for number in {page, *(page + chance.randrange(8) for _ in range(chance.choice((0, 0, 0, 1, 4))))}:
            if number == page or (number < bits and number in marked):
                data[place + number // 8] ^= 1 << number % 8
        return f"page 0x{page:x}"

    case = dump_case(machine, kind, chance, folder, "bitmap:", edit=flip)
    return replace(case, is_strict=True)


def opposite_bits(chance, folder):
    """One page lost from the map and another one gained: its count is right, and all pages between move by one."""
    machine, kind = choose_machine(chance)
    kind = kind if kind in _BITMAP else _KERNEL_BITMAP
    _, place = _find_map(machine, kind)

    def flip(data):
        bits, marked = _read_map(machine, kind, data)
        lost = gained = chance.choice(marked)
        while data[place + gained // 8] >> gained % 8 & 1:
            is_far = chance.random() < 0.5
            gained = chance.randrange(bits) if is_far else min(max(lost + chance.randrange(-40, 40), 0), bits - 1)
        for number in (lost, gained):
            data[place + number // 8] ^= 1 << number % 8
        return f"page 0x{lost:x} lost, 0x{gained:x} gained"

    case = dump_case(machine, kind, chance, folder, "opposite bits:", edit=flip)
    return replace(case, is_strict=True)


def runs(chance, folder):
    """The lists of runs and ranges: first page and length of each."""
    machine, _ = choose_machine(chance)
    kinds = (1, 8, 9, 10) if machine.truth.machine != "x86" else (1,)
    kind = chance.choice(kinds)
    wide = machine.truth.machine != "x86"
    start = (0x98 if wide else 0x6C) if kind == 1 else 0x2000
    stop = start + (16 if wide else 8) * 8 if kind == 1 else start + 0x80
    return dump_case(
        machine, kind, chance, folder, "runs:", edit=lambda data: damage(data, chance, IN_PLACE, start, stop)
    )


def files(chance, folder):
    """The file anywhere: cut, with gaps, with changed stretches. Changed counters are what the file says."""
    machine, kind = choose_machine(chance)
    return dump_case(
        machine, kind, chance, folder, "file:", is_judged=False, edit=lambda data: damage(data, chance, ANYHOW)
    )


def cuts(chance, folder):
    """The file ends early or has lost pages: what is left of it may not lie."""
    machine, kind = choose_machine(chance)

    def lose(data):
        if chance.random() < 0.5:
            del data[chance.randrange(len(data)) :]
            return "cut"
        at = chance.randrange(len(data)) & -PAGE
        del data[at : at + PAGE * chance.choice((1, 1, 16))]
        return "pages lost"

    return dump_case(machine, kind, chance, folder, "file:", edit=lose)


def page_tables(chance, folder):
    """The entries through which what is read is found."""
    machine, kind = choose_machine(chance)
    names = [name for name in machine.addresses if not name.startswith(("page:", "function:"))]
    entries = machine.space._entries
    done = []
    for _ in range(chance.choice((1, 1, 3, 10))):
        name = chance.choice(names)
        table = machine.space.root_address
        for level in range(chance.randrange(entries.last_level + 1) + 1):
            if table >> 12 not in machine.memory.pages:  # an entry above it was damaged before
                break
            place = table + entries.entry_offset(machine.addresses[name], level)
            entry = int.from_bytes(machine.memory.page(place >> 12)[place & 0xFFF :][: entries.entry_bytes], "little")
            if not entry & VALID or entries.is_large(entry, level):
                break
            table = entry & entries.frame_mask
        page = machine.memory.page(place >> 12)
        start = place & 0xFFF
        how = damage(page, chance, IN_PLACE[:2], start, start + entries.entry_bytes)
        done.append(f"{name} level {level} {how}")
    return dump_case(machine, kind, chance, folder, f"page tables: {', '.join(done)}")


def structures(chance, folder):
    """The debugger's block, lists, loader entries, globals of nt: by chance where any of them begins."""
    machine, kind = choose_machine(chance)
    wanted = ("KDBG", "entry:", "Ps", "Ki", "PoolTrackTable", "PoolBigPageTable", "bigpages", "process", "unloaded")
    names = [name for name in machine.addresses if name.startswith(wanted)]
    done = []
    for _ in range(chance.choice((1, 2, 5))):
        name = chance.choice(names)
        address = machine.addresses[name]
        try:
            data = bytearray(machine.read_virtual(address, 0x40 if name != "KDBG" else 0x340))
        except ValueError:
            continue
        done.append(f"{name} {damage(data, chance, IN_PLACE)}")
        machine.write_virtual(address, bytes(data))
    return dump_case(machine, kind, chance, folder, f"structures: {', '.join(done)}")


def images(chance, folder):
    """Headers, unwind data, resources and code of the driver images in memory; what code does may change with it."""
    machine, kind = choose_machine(chance)
    done = []
    for _ in range(chance.choice((1, 2, 8))):
        name, base, size, _ = chance.choice(machine.truth.modules)
        reach = chance.choice((0x40, 0x400, 0x1000, size))
        page = base + chance.randrange(0, max(min(reach, size) // PAGE, 1)) * PAGE
        try:
            data = bytearray(machine.read_virtual(page, PAGE))
        except ValueError:
            continue
        done.append(f"{name} {damage(data, chance, IN_PLACE, 0, min(reach, PAGE))}")
        machine.write_virtual(page, bytes(data))
    case = dump_case(machine, kind, chance, folder, f"images: {', '.join(done)}")
    case.owners = None
    return case


def table_pages(chance, folder):
    """Whole pages of a tag table are others: zeros, another page, noise, or not there."""
    machine, kind = choose_machine(chance)
    tables = [name for name in machine.addresses if name.startswith("table:")]
    done = []
    for _ in range(chance.choice((1, 1, 2))):
        name = chance.choice(tables)
        pages = -(-machine.table_bytes // PAGE)
        first = chance.randrange(pages)
        count = chance.choice((1, 1, pages - first))
        way = chance.choice(("zeros", "noise", "other page", "omitted", "other table"))
        for number in range(first, first + count):
            va = machine.addresses[name] + number * PAGE
            if way == "omitted":
                machine.omit(va, 1)
                continue
            start = va & -PAGE
            begin = max(start, machine.addresses[name])
            stop = min(start + PAGE, machine.addresses[name] + machine.table_bytes)
            if begin >= stop:
                continue
            other = machine.addresses[chance.choice(tables)] + chance.randrange(pages) * PAGE
            new = {
                "zeros": lambda size: bytes(size),
                "noise": chance.randbytes,
                "other page": lambda size: machine.read_virtual(machine.addresses["nt"], size),
                "other table": lambda size, other=other: machine.read_virtual(other & -PAGE, size),
            }[way](stop - begin)
            try:
                machine.write_virtual(begin, new)
            except ValueError:
                continue
        done.append(f"{name} page {first}+{count} {way}")
    return dump_case(machine, kind, chance, folder, f"tag tables: {', '.join(done)}")


def rows_of_tables(chance, folder):
    """Bytes of rows: changed counters are what the dump says, so that only the manners are judged."""
    machine, kind = choose_machine(chance)
    tables = [name for name in machine.addresses if name.startswith(("table:", "bigpages"))]
    name = chance.choice(tables)
    va = machine.addresses[name] + chance.randrange(machine.table_bytes)
    try:
        data = bytearray(machine.read_virtual(va & -PAGE, PAGE))
        how = damage(data, chance, IN_PLACE)
        machine.write_virtual(va & -PAGE, bytes(data))
    except ValueError:
        how = "nothing there"
    return dump_case(machine, kind, chance, folder, f"rows: {name} {how}", is_judged=False)


def archives(chance, folder):
    """Packed dumps: whole ones must be recognised whatever their bytes are, damaged ones may not lie."""
    machine = forge("pipo", seed=chance.randrange(1 << 16), build=chance.choice(BUILDS_OF_ARCH["x64"]))
    machine.frames = frozenset(machine.memory.pages)
    suffix = chance.choice((".gz", ".xz", ".zip"))
    if chance.random() < 0.3:
        case = dump_case(machine, 6, chance, folder, f"{suffix}, whole", suffix=suffix)
        return replace(case, is_whole=True)
    return dump_case(machine, 6, chance, folder, suffix, suffix=suffix, edit=lambda data: damage(data, chance, ANYHOW))
