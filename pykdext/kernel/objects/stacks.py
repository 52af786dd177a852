"""Stacks that Windows itself recorded as return addresses: whose code asked the kernel."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Optional, Tuple

from pykdext.kernel.kernel import Kernel

_WATCHERS = frozenset(("verifier.sys", "verifierext.sys", "hal.dll"))


class StackReader:
    """Finds the drivers on recorded stacks of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        loaded = [module for module in kernel.target.modules() if not module.unloaded]
        self._kernel_base = loaded[0].base if loaded else 0
        self._modules = sorted(loaded, key=lambda module: module.base)
        self._bases = [module.base for module in self._modules]
        self._code = "Q" if kernel.target.pointer_size == 8 else "I"
        self._width = kernel.target.pointer_size
        self._kernel_start = kernel.target.machine.kernel_start

    def find_driver(self, stack: bytes) -> Optional[Tuple[str, int]]:
        """The module of the first frame outside nt and Driver Verifier, and its place there; None: there is none.

        ``stack`` holds return addresses, the innermost first, and ends by a zero or where its bytes end.
        """
        for (address,) in struct.iter_unpack(f"<{self._code}", stack[: len(stack) - len(stack) % self._width]):
            if not address:
                return None
            place = self._locate(address)
            if place is not None:
                return place
        return None

    def find_caller(self, stack: bytes) -> Optional[Tuple[Optional[str], int]]:
        """The driver that asked, and its place; else None and the first address of the process's own code."""
        driver = self.find_driver(stack)
        if driver is not None:
            return driver
        for (address,) in struct.iter_unpack(f"<{self._code}", stack[: len(stack) - len(stack) % self._width]):
            if not address:
                break
            if address < self._kernel_start:
                return None, address
        return None

    def _locate(self, address: int) -> Optional[Tuple[str, int]]:
        number = bisect_right(self._bases, address) - 1
        module = self._modules[number] if number >= 0 else None
        if module is None or address not in module or module.base == self._kernel_base:
            return None
        return None if module.name.lower() in _WATCHERS else (module.name, address - module.base)
