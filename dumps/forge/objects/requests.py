"""I/O requests that a driver never completes, and lists of a process's pages that nobody frees.

IRP, IO_STACK_LOCATION and MDL as wdm.h has them, for pointers of 32 and of 64 bits.
"""

from __future__ import annotations

import struct

from dumps.forge.objects.blocks import BlockWriter
from dumps.forge.objects.bodies import BodyWriter
from dumps.forge.objects.population import PendingRequests
from dumps.forge.parts import Parts

_REQUEST_TYPE = 6
_READ, _DEVICE_CONTROL = 3, 14
_STACK = 4
_LOCKED_BYTES = 0x5000
_PAGES_LOCKED = 2
_COMPLETED_EVERY, _UNSENT_EVERY = 23, 17


def write_requests(
    parts: Parts, blocks: BlockWriter, bodies: BodyWriter, plan: PendingRequests, process_va: int
) -> None:
    """Write the requests that are there, most of them at the driver, and as many lists of pages of the process."""
    narrow = parts.kernel.architecture.narrow
    device_va = bodies.write_device(plan.driver)
    for number in range(plan.written):
        request = pack_request(narrow, device_va, number, parts.kernel.architecture.pack_pointers(0))
        va = blocks.reserve(b"Irp ", len(request), paged=False)
        blocks.put(va, request)
        pages = pack_list(narrow, process_va)
        va = blocks.reserve(b"Mdl ", len(pages), paged=False)
        blocks.put(va, pages)


def pack_request(narrow: bool, device_va: int, number: int, zero: bytes) -> bytes:
    """Return a request at the second of its four locations; a few were not sent, or are at their last one."""
    head, step = (0x70, 0x24) if narrow else (0xD0, 0x48)
    size = head + _STACK * step
    data = bytearray(size)
    struct.pack_into("<HH", data, 0, _REQUEST_TYPE, size)
    current = _STACK + 1 if number % _UNSENT_EVERY == 0 else 0 if number % _COMPLETED_EVERY == 0 else 2
    data[0x22 if narrow else 0x42] = _STACK
    data[0x23 if narrow else 0x43] = current
    at = head + step
    data[at] = _DEVICE_CONTROL if number % 9 == 0 else _READ
    device = device_va.to_bytes(len(zero), "little")
    place = at + (0x14 if narrow else 0x28)
    data[place : place + len(device)] = device
    return bytes(data)


def pack_list(narrow: bool, process_va: int) -> bytes:
    """Return a list of five pages of a process."""
    pages = _LOCKED_BYTES // 0x1000
    if narrow:
        size = 0x1C + 4 * pages
        return struct.pack("<IHHIIIII", 0, size, _PAGES_LOCKED, process_va, 0, 0x120000, _LOCKED_BYTES, 0).ljust(
            size, b"\1"
        )
    size = 0x30 + 8 * pages
    head = struct.pack("<QHHIQQQII", 0, size, _PAGES_LOCKED, 0, process_va, 0, 0x120000, _LOCKED_BYTES, 0)
    return head.ljust(size, b"\1")
