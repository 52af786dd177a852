"""The memory of a virtual machine as every container needs it: its RAM, and the registers of its processors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Dict, List, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import HOLE_PAGE, PAGE_BYTES, SPAN_PAGES

KERNEL_GS_USER = 0x7FFE1000
_CR4 = 0x350EF8


@dataclass(frozen=True)
class Registers:
    """One processor. In user mode ``gs`` is the thread's, and the control region waits in ``kernel_gs``."""

    cr3: int
    rip: int
    gs: int
    kernel_gs: int
    cr4: int = _CR4
    idt: int = 0


def ram_ranges(machine: ForgedMachine) -> List[Tuple[int, int]]:
    """Return first page and number of pages of each range of RAM: what lies below the hole, and above 4 GiB."""
    end = machine.kernel.architecture.span_pages
    return [(0, HOLE_PAGE), (SPAN_PAGES, end - SPAN_PAGES)] if end > SPAN_PAGES else [(0, end)]


def ram_pages(machine: ForgedMachine) -> Dict[int, bytes]:
    """Return the pages that are not zeros, by their numbers."""
    return {number: bytes(machine.memory.pages[number]) for number in machine.memory.present_frames()}


def write_range(file: BinaryIO, at: int, pages: Dict[int, bytes], first: int, count: int) -> None:
    """Write a range of RAM from file offset ``at`` on; pages of zeros become holes."""
    for number, data in pages.items():
        if first <= number < first + count and data.strip(b"\0"):
            file.seek(at + (number - first) * PAGE_BYTES)
            file.write(data)
    end = at + count * PAGE_BYTES
    if file.seek(0, 2) < end:
        file.truncate(end)


def registers(machine: ForgedMachine) -> List[Registers]:
    """Return the processors as they are in the kernel, each with its control region."""
    sizes = machine.kernel.sizes
    rip = machine.kernel.base + machine.kernel.functions["KeBugCheckEx"]
    return [
        Registers(
            machine.space.root_address,
            rip,
            machine.addresses[f"processor:{number}"] + sizes.prcb - sizes.pcr,
            KERNEL_GS_USER,
        )
        for number in range(machine.truth.processors)
    ]
