"""Writes what the kernel keeps about each processor: KPCR, KPRCB, descriptor table, registers, the running thread."""

from __future__ import annotations

import struct
from typing import Dict, List, Tuple

from dumps.forge.contexts import pack_context, pack_special_registers
from dumps.forge.descriptors import TASK_STATE_BYTES, pack_descriptor_table
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.threads import write_process, write_thread

_TASK_STATE_OFFSET = 0x800  # behind the descriptor table, on its page

# Where the KPCR of a family names itself and its KPRCB, both zero where it does not, and the tables.
PCR_SELF: Dict[str, Tuple[int, int]] = {"x64": (0x18, 0x20), "x86": (0x1C, 0x20), "arm64": (0x18, 0)}
_PCR_TABLES: Dict[str, Tuple[int, int]] = {"x64": (0x0, 0x8), "x86": (0x3C, 0x40)}  # descriptors, task state


def write_processors(parts: Parts, bugcheck: Tuple[int, ...], return_addresses: Tuple[int, ...]) -> None:
    """Write every processor of the machine; the first one is in KeBugCheckEx with the words of the bugcheck.

    ``return_addresses`` fill the stacks. The process that runs was written before, else it is a bare one. The pages of
    a KPCR in which nothing stands are one page of zeros. nt's own copy of the words is empty: an image of the same
    memory is one of a running system.
    """
    zeros = parts.space.frames.take()
    parts.space.memory.page(zeros)
    process_va = parts.addresses["process"] if "process" in parts.addresses else write_process(parts)
    blocks: List[int] = []
    for number in range(parts.processors):
        thread_va, stack_va = write_thread(parts, number, process_va, return_addresses)
        arguments = () if number else bugcheck
        blocks.append(_write_processor(parts, number, thread_va, stack_va, arguments, zeros))
    parts.space.store(parts.variable("KiProcessorBlock"), parts.kernel.architecture.pack_pointers(*blocks, 0))
    if "KiBugCheckData" in parts.kernel.variables:
        parts.space.store(parts.variable("KiBugCheckData"), parts.kernel.architecture.pack_pointers(0, 0, 0, 0, 0))


def _write_processor(
    parts: Parts, number: int, thread_va: int, stack_va: int, arguments: Tuple[int, ...], zeros: int
) -> int:
    """Write one KPCR with the KPRCB at its end; return the address of the KPRCB."""
    space, sizes, architecture = parts.space, parts.kernel.sizes, parts.kernel.architecture
    pcr_va = parts.regions.processors.take(sizes.pcr, gap=0x10000)
    va = pcr_va + sizes.pcr - sizes.prcb
    instruction = parts.kernel.base + parts.kernel.functions["KeBugCheckEx"]
    table_va, table_bytes = _write_descriptors(parts, pcr_va)
    self_offset, prcb_offset = PCR_SELF[architecture.family]
    space.store(pcr_va + self_offset, architecture.pack_pointers(pcr_va))
    if prcb_offset:
        space.store(pcr_va + prcb_offset, architecture.pack_pointers(va))
    space.store(va + sizes.prcb_number, struct.pack("<I", number))
    space.store(va + sizes.prcb_thread, architecture.pack_pointers(thread_va))
    space.store(va + sizes.processor_state, pack_context(architecture, instruction, stack_va, arguments))
    special = pack_special_registers(architecture, space.root_address, table_va, table_bytes)
    space.store(va + sizes.special_registers, special)
    if sizes.prcb_context:
        space.store(va + sizes.prcb_context, architecture.pack_pointers(va + sizes.processor_state))
    for page_va in range(pcr_va, pcr_va + sizes.pcr, PAGE_BYTES):
        if space.translate(page_va) is None:
            space.map_page(page_va, zeros)
    parts.addresses[f"processor:{number}"] = va
    return va


def _write_descriptors(parts: Parts, pcr_va: int) -> Tuple[int, int]:
    """Write descriptor table and task state of a processor; return the table's address and size, 0 on ARM64."""
    architecture = parts.kernel.architecture
    if architecture.family not in _PCR_TABLES:
        return 0, 0
    va = parts.regions.processors.take(PAGE_BYTES)
    table = pack_descriptor_table(architecture, pcr_va, va + _TASK_STATE_OFFSET)
    parts.space.store(va, table)
    parts.space.store(va + _TASK_STATE_OFFSET, bytes(TASK_STATE_BYTES))
    for offset, address in zip(_PCR_TABLES[architecture.family], (va, va + _TASK_STATE_OFFSET)):
        parts.space.store(pcr_va + offset, architecture.pack_pointers(address))
    return va, len(table)
