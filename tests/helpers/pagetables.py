"""Page tables written by hand, entry by entry, for each kind of processor; every offset is literal."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pykdext.errors import MemoryReadError
from pykdext.targets.paging.addressspace import AddressSpace
from pykdext.targets.paging.modes import ARM64, X64, X86, X86_BEFORE_VISTA, X86_PAE
from pykdext.targets.paging.virtual import VirtualMemory

PAGE = 0x1000
PAGED_POOL = 0xE1000000


@dataclass(frozen=True)
class Kind:
    """``levels``: shift and index bits from the top down. ``large``: flags of a large page, by its shift.

    ``prototype``: an address of a prototype entry that this kind can name; ``paged_out``: an entry in a page file.
    """

    mode: object
    entry: str
    levels: tuple
    root: int
    directory_table_base: int
    kernel: int
    table: int
    page: int
    large: dict
    prototype: int
    paged_out: int
    top_table: int = 0


KINDS = {
    "x64": Kind(
        mode=X64,
        entry="<Q",
        levels=((39, 9), (30, 9), (21, 9), (12, 9)),
        root=0x1AD000,
        directory_table_base=1 << 63 | 0x1AD002,
        kernel=0xFFFFF800_00000000,
        table=0x63,
        page=1 << 63 | 0x63,
        large={21: 0xE3 | 1 << 12, 30: 0xE3 | 1 << 12},  # bit 12 is PAT in a large entry, not part of the address
        prototype=0xFFFFA001_03456CC8,
        paged_out=0x1234_00000080,
    ),
    "arm64": Kind(
        mode=ARM64,
        entry="<Q",
        levels=((39, 9), (30, 9), (21, 9), (12, 9)),
        root=0x1AD000,
        directory_table_base=0x17 << 48 | 0x1AD001,
        kernel=0xFFFFF803_00000000,
        table=0x3,
        page=0x60000000000783,
        large={21: 0x60000000000781, 30: 0x60000000000781},
        prototype=0xFFFFA001_23456CC8,
        paged_out=0x1234_00000080,
    ),
    "pae": Kind(
        mode=X86_PAE,
        entry="<Q",
        levels=((30, 2), (21, 9), (12, 9)),
        root=0x1AD320,
        directory_table_base=0x1AD338,
        kernel=0x81000000,
        table=0x63,
        page=1 << 63 | 0x63,
        large={21: 0xE3 | 1 << 12},
        prototype=0xE1234CC8,
        paged_out=0x1234_00000080,
        top_table=0x01,
    ),
    "x86": Kind(
        mode=X86,
        entry="<I",
        levels=((22, 10), (12, 10)),
        root=0x1AD000,
        directory_table_base=0x1AD018,
        kernel=0x81000000,
        table=0x63,
        page=0x63,
        large={22: 0xE3},
        prototype=0x9E345CCC,
        paged_out=0x1234080,
    ),
    "xp": Kind(
        mode=X86_BEFORE_VISTA,
        entry="<I",
        levels=((22, 10), (12, 10)),
        root=0x1AD000,
        directory_table_base=0x1AD000,
        kernel=0x81000000,
        table=0x63,
        page=0x63,
        large={22: 0xE3},
        prototype=0xE1345CCC,
        paged_out=0x1234080,
    ),
}


class Pages:
    """Physical memory of whole pages: {page number: bytes}."""

    def __init__(self):
        self.pages = {}

    @property
    def present_pages(self):
        return len(self.pages)

    def read_physical(self, address, size):
        data = b""
        while len(data) < size:
            at = address + len(data)
            page = self.pages.get(at // PAGE)
            if page is None:
                raise MemoryReadError(address, size)
            data += bytes(page[at % PAGE : at % PAGE + size - len(data)])
        return data

    def read_present_physical(self, address, size):
        for number in range(address // PAGE, (address + size + PAGE - 1) // PAGE):
            start, end = max(address, number * PAGE), min(address + size, number * PAGE + PAGE)
            if number in self.pages and start < end:
                yield start, bytes(self.pages[number][start % PAGE : start % PAGE + end - start])

    def fill(self, number, seed=None):
        self.pages[number] = bytearray(struct.pack("<Q", number if seed is None else seed) * 512)
        return bytes(self.pages[number])


class Tables:
    """The page tables of one address space; new tables come from page 200h on."""

    def __init__(self, kind):
        self.kind = kind
        self.memory = Pages()
        self.memory.pages[kind.root // PAGE] = bytearray(PAGE)
        self.next_table = 0x200
        self.space = self.new_space()
        self.virtual = VirtualMemory(self.memory, self.space)

    def new_space(self, directory_table_base=None):
        base = self.kind.directory_table_base if directory_table_base is None else directory_table_base
        space = AddressSpace(self.kind.mode, self.memory, base)
        if self.kind is KINDS["xp"]:
            space.set_prototype_base(PAGED_POOL)
        return space

    def get_entry(self, address):
        return struct.unpack_from(self.kind.entry, self.memory.pages[address // PAGE], address % PAGE)[0]

    def put_entry(self, address, entry):
        page = self.memory.pages.setdefault(address // PAGE, bytearray(PAGE))
        struct.pack_into(self.kind.entry, page, address % PAGE, entry)

    def entry_address(self, address, wanted_shift):
        """Where the entry stands that decides on ``address`` at a level; the tables above it are made."""
        table = self.kind.root
        for shift, bits in self.kind.levels:
            at = table + (address >> shift & ((1 << bits) - 1)) * struct.calcsize(self.kind.entry)
            if shift == wanted_shift:
                return at
            entry = self.get_entry(at)
            if not entry & 1:
                flags = self.kind.top_table if table == self.kind.root and self.kind.top_table else self.kind.table
                entry = self.next_table << 12 | flags
                self.memory.pages[self.next_table] = bytearray(PAGE)
                self.put_entry(at, entry)
                self.next_table += 1
            table = entry & 0x3FFFFFF000
        raise AssertionError(f"no level with shift {wanted_shift}")

    def set_pte(self, address, entry):
        self.put_entry(self.entry_address(address, 12), entry)

    def map_page(self, address, number):
        self.set_pte(address, number << 12 | self.kind.page)

    def map_large(self, address, number, shift):
        self.put_entry(self.entry_address(address, shift), number << 12 | self.kind.large[shift])

    def store_prototype(self, shared, number=0x321):
        """Put a prototype entry into memory, on a page of its own."""
        self.put_entry(number * PAGE + self.kind.prototype % PAGE, shared)
        self.map_page(self.kind.prototype, number)

    def prototype_entry(self, address=None):
        """The entry that names the prototype entry at ``address``."""
        address = self.kind.prototype if address is None else address
        if self.kind is KINDS["xp"]:
            offset = address - PAGED_POOL
            return (offset & 0x3FFFFE00) << 2 | (offset & 0x1FC) >> 1 | 0x400
        if self.kind is KINDS["x86"]:
            return (address & 0x7FFFFC00) << 1 | (address & 0x3FC) >> 1 | 0x400
        shift = 32 if self.kind is KINDS["pae"] else 16
        return (address << shift & 0xFFFFFFFFFFFFFFFF) | 0x400
