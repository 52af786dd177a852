"""A forged machine: its memory, the header of its dump, and the truth about it."""

from __future__ import annotations

import datetime
import gzip
import lzma
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, Optional, Tuple, Union, cast

from dumps.forge.containers import BITMAP_KERNEL, write_dump
from dumps.forge.headers import DumpHeader
from dumps.forge.pagetables import AddressSpace
from dumps.forge.physical import PAGE_BYTES, PhysicalMemory
from dumps.forge.poolblocks import PoolBlock
from dumps.forge.trackertables import TagTruth


@dataclass(frozen=True)
class Truth:
    """What a perfect reader finds in the dump, whatever the kind of the file and whatever was damaged later.

    ``tags`` are the rows that are not all zero, added up over processors and the expansion table.
    ``leak`` is (tag, 'nonpaged' or 'paged', the module that causes it or None where more than one could).
    ``owners`` are the loaded modules whose code or data carries the tag, ``blocks`` the tag's blocks in use
    whose pages exist; the big-page table may know more of them.
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


@dataclass
class ForgedMachine:
    """Memory that can still be damaged, and the dump files of it."""

    truth: Truth
    addresses: Dict[str, int]
    header: DumpHeader
    memory: PhysicalMemory
    space: AddressSpace

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

    def save(self, path: Union[str, os.PathLike[str]], kind: int = BITMAP_KERNEL) -> None:
        """Write a dump file of type 1, 5 or 6; the suffixes .gz and .xz compress it."""
        with _open_output(Path(path)) as file:
            write_dump(file, kind, self.header, self.memory)


@contextmanager
def _open_output(path: Path) -> Iterator[BinaryIO]:
    with open(path, "wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        elif path.suffix == ".xz":
            with lzma.LZMAFile(raw, "wb", preset=9 | lzma.PRESET_EXTREME) as squeezed:
                yield cast(BinaryIO, squeezed)
        else:
            yield raw
