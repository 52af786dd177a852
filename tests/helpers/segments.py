"""A Target made of segments: ``SegmentsTarget({address: bytes, ...})``. Adjacent segments read as one."""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping, Optional, Tuple

from pykdext.errors import MemoryReadError, SymbolNotFoundError
from pykdext.model import Machine, Module, TargetFacts, TypeLayout


class SegmentsTarget:
    def __init__(
        self,
        segments: Mapping[int, bytes],
        *,
        machine: Machine = Machine.X64,
        modules: Tuple[Module, ...] = (),
        symbols: Optional[Mapping[str, int]] = None,
        layouts: Optional[Mapping[str, TypeLayout]] = None,
        facts: Optional[TargetFacts] = None,
    ) -> None:
        self._machine = machine
        self._modules = tuple(modules)
        self._symbols: Dict[str, int] = dict(symbols or {})
        self._layouts: Dict[str, TypeLayout] = dict(layouts or {})
        self._facts = facts or TargetFacts(kind="segments of a test", machine=machine)
        self._segments: List[Tuple[int, bytes]] = []
        for address, data in sorted(segments.items()):
            if self._segments and address < self._segments[-1][0] + len(self._segments[-1][1]):
                raise ValueError(f"segments overlap at 0x{address:x}")
            if self._segments and address == self._segments[-1][0] + len(self._segments[-1][1]):
                self._segments[-1] = (self._segments[-1][0], self._segments[-1][1] + bytes(data))
            else:
                self._segments.append((address, bytes(data)))

    @property
    def pointer_size(self) -> int:
        return self._machine.pointer_size

    @property
    def machine(self) -> Machine:
        return self._machine

    @property
    def facts(self) -> TargetFacts:
        return self._facts

    def read_virtual(self, address: int, size: int) -> bytes:
        if size == 0:
            return b""
        for start, data in self._segments:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MemoryReadError(address, size)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        for start, data in self._segments:
            first, end = max(address, start), min(address + size, start + len(data))
            if first < end:
                yield first, data[first - start : end - start]

    def modules(self) -> Tuple[Module, ...]:
        return self._modules

    def symbol(self, name: str) -> int:
        if name not in self._symbols:
            raise SymbolNotFoundError(name)
        return self._symbols[name]

    def field_layout(self, type_name: str) -> TypeLayout:
        if type_name not in self._layouts:
            raise SymbolNotFoundError(type_name)
        return self._layouts[type_name]
