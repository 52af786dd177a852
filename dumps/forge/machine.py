"""A forged machine: its memory, the header of its dump, and the truth about it."""

from __future__ import annotations

import datetime
import gzip
import lzma
import os
import random
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Dict, FrozenSet, Iterator, Optional, Sequence, Tuple, Union, cast

from dumps.forge.containers import BITMAP_FULL, BITMAP_KERNEL, FULL, TRIAGE, write_dump
from dumps.forge.headers import DumpHeader
from dumps.forge.kdbg import build_debugger_data
from dumps.forge.kernels import KernelBuild
from dumps.forge.loader import entry_layout
from dumps.forge.objects.truth import ObjectTruth
from dumps.forge.pagetables import AddressSpace
from dumps.forge.physical import PAGE_BYTES, PhysicalMemory
from dumps.forge.poolblocks import PoolBlock
from dumps.forge.pooltotals import Limits
from dumps.forge.trackertables import TagTruth
from dumps.forge.triagedump import TriageContents, TriageDriver, UnloadedRange, write_triage

_LIVE_DUMP, _FILTERED, _ENCRYPTED_DATA = 0x10, 0x40, 0x100  # Attributes
_LIVE_BUGCHECK = (0x161, 0, 0, 0, 0)  # LIVE_SYSTEM_DUMP
_ZIP_TIME = (2024, 11, 12, 4, 2, 10)


@dataclass(frozen=True)
class Truth:
    """What a perfect reader finds in the dump, whatever the kind of the file and whatever was damaged later.

    ``tags`` are the rows that are not all zero, added up over processors and the expansion table.
    ``leak`` is (tag, 'nonpaged' or 'paged', the module that causes it or None where more than one could).
    ``owners`` are the loaded modules whose code or data carries the tag, ``blocks`` the tag's blocks in use
    whose pages exist; the big-page table may know more of them. ``limits`` are (in use, limit) in bytes of the
    pools 'nonpaged' and 'paged' and of 'commit', None where this kernel keeps a number at no known place. ``objects``
    is what lives on machines of the scenarios of objects; where processes leak, no tag of the pools need be
    large. ``memory`` are further numbers of the memory manager,
    ``frames`` says how many page frames have which use, ``private_frames`` how many of them are private pages of which
    process; all are empty unless they were wished for. ``big_blocks``: where the blocks in use are that the big-page
    table lists. ``session_tags``: the tags of each session's pool, by its number.
    """

    build: int
    machine: str
    processors: int
    bugcheck: Tuple[int, int, int, int, int]
    taken_at: datetime.datetime
    uptime_seconds: float
    kernel_guid: str
    tags: Dict[bytes, TagTruth]
    modules: Tuple[Tuple[str, int, int, int], ...]
    unloaded: Tuple[Tuple[str, int, int], ...]
    leak: Optional[Tuple[bytes, str, Optional[str]]]
    owners: Dict[bytes, Tuple[str, ...]]
    blocks: Dict[bytes, Tuple[PoolBlock, ...]]
    nonpaged_limit_bytes: int
    paged_limit_bytes: int
    limits: Limits
    objects: Optional[ObjectTruth] = None
    memory: Dict[str, int] = field(default_factory=dict)
    frames: Dict[str, int] = field(default_factory=dict)
    private_frames: Dict[int, int] = field(default_factory=dict)
    big_blocks: Tuple[int, ...] = ()
    session_tags: Dict[int, Dict[bytes, TagTruth]] = field(default_factory=dict)


@dataclass
class ForgedMachine:
    """Memory that can still be damaged, and the dump files of it."""

    truth: Truth
    addresses: Dict[str, int]
    header: DumpHeader
    memory: PhysicalMemory
    space: AddressSpace
    kernel: KernelBuild
    module_paths: Dict[str, str]
    table_bytes: int
    user_frames: FrozenSet[int] = frozenset()
    free_frames: FrozenSet[int] = frozenset()

    def read_virtual(self, va: int, size: int) -> bytes:
        """Read kernel memory; ValueError where a page does not exist."""
        return self.space.read(va, size)

    def write_virtual(self, va: int, data: bytes) -> None:
        """Write kernel memory; ValueError where nothing is mapped."""
        self.space.write(va, data)

    def unmap(self, va: int, size: int) -> None:
        """Clear the page table entries of every page of the range."""
        self.space.unmap(va, size)

    def omit(self, va: int, size: int) -> None:
        """Leave the pages of the range out of the dump; their page table entries stay as they are."""
        for page_va in range(va & -PAGE_BYTES, va + size, PAGE_BYTES):
            address = self.space.translate(page_va)
            if address is not None:
                self.memory.omitted.add(address >> 12)

    def filter_pages(self, without_tables_of: Sequence[int] = ()) -> None:
        """Leave user pages and free pages out of the dump, as active and live dumps do, and some tag tables.

        ``without_tables_of`` are numbers of processors: their tables are not pool, and are missing in some dumps.
        """
        self.memory.omitted |= self.user_frames | self.free_frames
        for processor in without_tables_of:
            self.omit(self.addresses[f"table:{processor}"], self.table_bytes)
        self.header.attributes = (self.header.attributes or 0) | _FILTERED

    def save(
        self,
        path: Union[str, os.PathLike[str]],
        kind: int = BITMAP_KERNEL,
        *,
        live: bool = False,
        encrypted: bool = False,
    ) -> None:
        """Write a dump file of type 1, 2 or 4 to 10; the suffixes .gz, .xz and .zip compress it.

        ``live`` makes it one that was taken without stopping the system: its attribute, and bugcheck 161h. Of an
        ``encrypted`` one only the header can be read. ValueError for types that the forge does not write, and for
        those that this machine cannot have.
        """
        header = self.header
        if live:
            if kind not in (FULL, BITMAP_FULL, BITMAP_KERNEL):
                raise ValueError(f"dump type {kind}: live dumps are of type 1, 5 or 6")
            header = replace(header, attributes=(header.attributes or 0) | _LIVE_DUMP, bugcheck=_LIVE_BUGCHECK)
        if encrypted:
            header = replace(header, attributes=(header.attributes or 0) | _ENCRYPTED_DATA)
        with _open_output(Path(path)) as file:
            if encrypted:
                plain = BytesIO()
                self._write(plain, kind, header)
                file.write(_encrypt(plain.getvalue(), header.layout.size))
            else:
                self._write(file, kind, header)

    def _write(self, file: BinaryIO, kind: int, header: DumpHeader) -> None:
        if kind == TRIAGE:
            write_triage(file, header, self._choose_triage_contents(), self.space)
        else:
            write_dump(file, kind, header, self.memory)

    def _choose_triage_contents(self) -> TriageContents:
        """Return what the kernel puts into a small dump."""
        truth, addresses, kernel = self.truth, self.addresses, self.kernel
        drivers, entries, layout = [], [], entry_layout(kernel.architecture)
        for name, base, size, timestamp in truth.modules:
            entry_va = addresses[f"entry:{name}"]
            checksum = int.from_bytes(self.read_virtual(entry_va + layout.checksum, 4), "little")
            drivers.append(TriageDriver(self.module_paths[name], base, size, checksum, timestamp))
            entries.append((entry_va, layout.size))
        processors = [(addresses[f"processor:{number}"], kernel.sizes.prcb) for number in range(truth.processors)]
        variables = (
            ("PsLoadedModuleList", 2 * kernel.architecture.pointer_bytes),
            ("KiProcessorBlock", truth.processors * kernel.architecture.pointer_bytes),
            ("NtBuildLab", len(kernel.build_lab) + 1),
        )
        in_nt = [(addresses["nt"], PAGE_BYTES)]
        in_nt += [(addresses["nt"] + kernel.variables[name], size) for name, size in variables]
        stack_va = addresses["stack:0"]
        return TriageContents(
            drivers=drivers,
            unloaded=[UnloadedRange(*driver) for driver in truth.unloaded],
            debugger_data=build_debugger_data(kernel),
            processor_block=processors[0],
            process=(addresses["process"], kernel.sizes.eprocess),
            thread=(addresses["thread:0"], kernel.sizes.ethread),
            blocks=[*in_nt, *processors, *entries],
            stack=(stack_va, -stack_va % PAGE_BYTES),
            pool_totals_pages=[
                (number or 0) // PAGE_BYTES for pool in ("nonpaged", "paged") for number in reversed(truth.limits[pool])
            ],
        )


def _encrypt(data: bytes, plain_bytes: int) -> bytes:
    """Return a file whose body nobody can read; only the first ``plain_bytes`` stay."""
    return data[:plain_bytes] + random.Random("key").randbytes(len(data) - plain_bytes)


@contextmanager
def _open_output(path: Path) -> Iterator[BinaryIO]:
    with open(path, "wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        elif path.suffix == ".xz":
            with lzma.LZMAFile(raw, "wb", preset=9 | lzma.PRESET_EXTREME) as squeezed:
                yield cast(BinaryIO, squeezed)
        elif path.suffix == ".zip":
            entry = zipfile.ZipInfo(path.stem, _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(raw, "w") as archive, archive.open(entry, "w") as packed_entry:
                yield cast(BinaryIO, packed_entry)
        else:
            yield raw
