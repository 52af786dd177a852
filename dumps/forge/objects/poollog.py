"""Driver Verifier's log of pool calls: a ring of address, size, thread and stack, the newest entry told by an index.

Allocations and frees look alike there; the ring was passed around before, so that its start is newer than its end.
"""

from __future__ import annotations

import struct
from typing import List, Mapping, Sequence, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects.blocks import BlockWriter
from dumps.forge.objects.population import VerifiedDriver
from dumps.forge.parts import Parts

_LENGTH = 256
_PASSED = 7 * _LENGTH
_LOGGED = 48  # blocks of one driver that the log still has
_STACK_START = 0x18
_HEADER_BYTES = 0x10


class PoolLog:
    """The entries of one machine, the oldest first."""

    def __init__(self, parts: Parts, modules: LoadedModules, blocks: BlockWriter, entry_bytes: int) -> None:
        self._parts = parts
        self._modules = modules
        self._blocks = blocks
        self._entry_bytes = entry_bytes
        self._entries: List[bytes] = []

    def add(self, driver: VerifiedDriver) -> Tuple[int, int]:
        """Let a driver allocate blocks, some where another driver freed before, and free some of its own.

        Return how many are still in use, and the place in the driver that allocated them.
        """
        base, code_va = self._modules.base(driver.driver), self._modules.pointers_into(driver.driver)[0]
        stranger_va = self._modules.pointers_into("afd.sys")[0]
        place_va = code_va + 0x2B
        size = driver.block_bytes - _HEADER_BYTES - 4
        count = min(driver.allocations, _LOGGED)
        for number in range(count):
            va = self._blocks.reserve(driver.tag, driver.block_bytes - _HEADER_BYTES, paged=False)
            if number % 3 == 0:
                self._log(va, size, (stranger_va + 0x41,))
            self._log(va, size, (place_va, code_va + 0x90))
        gone_va = self._parts.regions.nonpaged.take(0x1000)
        self._parts.space.store(gone_va, bytes(0x1000))
        for number in range(8):
            self._log(gone_va + 0x40 + 0x80 * number, 0x70, (code_va + 0x63,))
        return count, place_va - base

    def write(self, variables: Mapping[str, int]) -> None:
        """Write the ring and the variables that lead to it."""
        space = self._parts.space
        assert len(self._entries) <= _LENGTH
        newest = _PASSED + len(self._entries) // 2
        ring = [bytes(self._entry_bytes)] * _LENGTH
        for back, entry in enumerate(reversed(self._entries)):
            ring[(newest - back) % _LENGTH] = entry
        ring_va = self._parts.regions.nonpaged.take(-(-_LENGTH * self._entry_bytes // 0x1000) * 0x1000)
        space.store(ring_va, b"".join(ring))
        self._parts.addresses["verifier-log"] = ring_va
        space.store(variables["VfPoolTraces"], struct.pack("<Q", ring_va))
        space.store(variables["VfPoolTracesIndex"], struct.pack("<I", newest))
        space.store(variables["VfPoolTracesLength"], struct.pack("<I", _LENGTH))

    def _log(self, va: int, size: int, callers: Sequence[int]) -> None:
        kernel = self._parts.kernel
        inside = kernel.base + kernel.functions["ExAllocatePoolWithTag"]
        stack = (inside + 0x1C4, inside + 0x22, *callers, inside + 0x900)
        thread_va = self._parts.addresses["process"]
        entry = struct.pack(f"<QQQ{len(stack)}Q", va, size, thread_va, *stack)
        self._entries.append(entry.ljust(self._entry_bytes, b"\0"))
