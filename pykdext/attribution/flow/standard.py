"""Standard addresses: a function is followed as if each module lay where its name and size put it.

Windows loads a driver at another address on every machine, and at every start. Followed at standard addresses, the same
code tells the same everywhere, so that what it tells can be kept for the next machine. Pointers into modules are moved
there when memory is read, and back in all that is told. Addresses of 32 bits are left alone: they stand in the middle
of instructions, where nothing tells them from other numbers.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import struct
from dataclasses import replace
from typing import Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Set, Tuple

from pykdext.attribution.flow.calls import CallSite, FrameReader, FunctionFlow
from pykdext.attribution.flow.values import Atom, Constant, Entry, Location, Value
from pykdext.images.image import Image
from pykdext.model import Machine, Module

POINTER_BYTES = 8
"""Of addresses that are moved."""

_POINTER = struct.Struct("<Q")
_PIECE = struct.Struct("<QQ")
_FIRST_UPPER_HALF, _UPPER_HALVES = 0xFFFF8000, 0x7FFF
"""Each module has 4 GiB of the kernel's half of the addresses for itself, chosen by its name and size."""

_LOWER_HALF = 0x81B50000
"""Where a module begins in its 4 GiB: calls reach 2 GiB to either side; cut to 32 bits an address is never a tag."""

_LOWER_MASK, _PAST_ALL = (1 << 32) - 1, 1 << 64
_REACH = 1 << 31
_ADDRESS_IN_TEXT = re.compile(r"0xffff[0-9a-f]{12}\b")


class StandardAddresses:
    """Where ``modules`` lie by standard. Those that overlap in memory, or would there, are not moved."""

    def __init__(self, modules: Iterable[Module]) -> None:
        by_upper_half: Dict[int, List[Module]] = {}
        for module in _leave_out_overlapping(modules):
            by_upper_half.setdefault(_choose_upper_half(module), []).append(module)
        self._modules = {upper: found[0] for upper, found in by_upper_half.items() if len(found) == 1}
        self._starts = {module.base: (upper << 32) + _LOWER_HALF for upper, module in self._modules.items()}
        self._ranges = sorted((module.base, module.base + module.size) for module in self._modules.values())
        self._lowest = self._ranges[0][0] if self._ranges else 0
        self._highest = self._ranges[-1][1] if self._ranges else 0

    @property
    def are_any(self) -> bool:
        """Whether any module is moved."""
        return bool(self._modules)

    def base_of(self, module: Module) -> int:
        """The standard address of one of the modules; its own where it is not moved."""
        return self._starts.get(module.base, module.base)

    def move_there(self, data: bytes, rva: int) -> bytes:
        """``data``, which lies at ``rva`` of an image, with its aligned pointers into modules at standard addresses."""
        start = -rva % _POINTER.size
        whole = data[start : start + max(len(data) - start, 0) // _POINTER.size * _POINTER.size]
        lowest, highest = self._lowest, self._highest
        found = [(at, number) for at, (number,) in enumerate(_POINTER.iter_unpack(whole)) if lowest <= number < highest]
        if not found:
            return data
        moved = bytearray(data)
        for at, number in found:
            base, end = self._ranges[bisect.bisect_right(self._ranges, (number, _PAST_ALL)) - 1]
            if number < end:
                _POINTER.pack_into(moved, start + at * _POINTER.size, self._starts[base] + number - base)
        return bytes(moved)

    def move_back(self, number: int) -> int:
        """An address in a module as it is in memory, by its standard one; any other number as it is."""
        module = self._modules.get(number >> 32)
        offset = (number & _LOWER_MASK) - _LOWER_HALF
        return module.base + offset if module is not None and 0 <= offset < module.size else number


def _leave_out_overlapping(modules: Iterable[Module]) -> Iterator[Module]:
    """The modules that share no byte with another one."""
    ordered = sorted((module for module in modules if module.size > 0), key=lambda module: module.base)
    end = 0
    for index, module in enumerate(ordered):
        following = ordered[index + 1].base if index + 1 < len(ordered) else _PAST_ALL
        if end <= module.base and module.base + module.size <= following:
            yield module
        end = max(end, module.base + module.size)


def _choose_upper_half(module: Module) -> int:
    digest = hashlib.sha256(f"{module.name.lower()} {module.size}".encode("utf-8", "backslashreplace")).digest()
    return _FIRST_UPPER_HALF + int.from_bytes(digest[:8], "little") % _UPPER_HALVES


class StandardImage(Image):
    """``image`` at its standard address. What was read of it since :meth:`begin` is noted."""

    def __init__(self, image: Image, addresses: StandardAddresses) -> None:
        self._places: Set[Tuple[int, int]] = set()
        self._addresses = addresses
        self._base_in_memory = image.module.base
        memory = _StandardMemory(image, addresses)
        module = replace(image.module, base=addresses.base_of(image.module))
        super().__init__(memory, module, zeros_are_code=image.is_file)

    def begin(self) -> None:
        """Forget what was read until now."""
        self._places.clear()

    @property
    def places_read(self) -> Tuple[Tuple[int, int], ...]:
        """RVA and size of what was asked for, whether it is in memory or not, ascending."""
        return tuple(sorted(self._places))

    def read(self, rva: int, size: int) -> Optional[bytes]:
        """As of any image."""
        self._places.add((rva, size))
        return super().read(rva, size)

    def read_text(self, rva: int, max_bytes: int) -> Optional[str]:
        """As of any image."""
        self._places.add((rva, max_bytes + 1))
        return super().read_text(rva, max_bytes)

    def iter_range(self, rva: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """As of any image."""
        self._places.add((rva, size))
        return super().iter_range(rva, size)

    def digest(self, places: Iterable[Tuple[int, int]]) -> str:
        """Of what is in memory at ``places``."""
        digest = hashlib.sha256()
        for rva, size in places:
            for piece_rva, piece in super().iter_range(rva, size):
                digest.update(_PIECE.pack(piece_rva, len(piece)) + piece)
            digest.update(f"{rva} {size}\n".encode())  # code may ask for what lies before the image, or far behind it
        return digest.hexdigest()

    def restore(self, flow: FunctionFlow) -> FunctionFlow:
        """A flow that was told of this image as it is of the one in memory."""
        if self.module.base == self._base_in_memory and not self._addresses.are_any:
            return flow
        calls = tuple(
            CallSite(
                site.rva,
                self._restore_value(site.target),
                self._restore_value(site.dispatched),
                _RestoredFrame(site.frame, self._restore_value),
                site.is_jump,
            )
            for site in flow.calls
        )
        return replace(
            flow,
            calls=calls,
            instruction_text={rva: self._restore_text(text) for rva, text in flow.instruction_text.items()},
            kept={rva: self._restore_value(value) for rva, value in flow.kept.items()},
            members={place: self._restore_value(value) for place, value in flow.members.items()},
            returned=self._restore_value(flow.returned),
        )

    def _restore_value(self, value: Value) -> Value:
        restored: FrozenSet[Atom] = frozenset(map(self._restore_atom, value))
        return value if restored == value else restored

    def _restore_atom(self, atom: Atom) -> Atom:
        if not isinstance(atom, (Constant, Entry)) or atom.number >> 32 < _FIRST_UPPER_HALF:
            return atom
        return replace(atom, number=self._restore_number(atom.number))

    def _restore_number(self, number: int) -> int:
        """Whatever is within reach of the image moves with it: calls of other modules may be relative."""
        offset = number - self.module.base
        return self._base_in_memory + offset if -_REACH <= offset < _REACH else self._addresses.move_back(number)

    def _restore_text(self, text: str) -> str:
        return _ADDRESS_IN_TEXT.sub(lambda match: hex(self._restore_number(int(match[0], 16))), text)


class _RestoredFrame:
    """A ``FrameReader`` that tells addresses as they are in memory."""

    def __init__(self, frame: FrameReader, restore: Callable[[Value], Value]) -> None:
        self._frame = frame
        self._restore = restore
        self._arguments: Dict[Tuple[Location, int], Value] = {}

    def argument(self, location: Location, size: int) -> Value:
        """What the callee gets at ``location``."""
        key = location, size
        if key not in self._arguments:
            self._arguments[key] = self._restore(self._frame.argument(location, size))
        return self._arguments[key]

    def stack(self, offset: int, size: int) -> Value:
        """What stands in the caller's frame."""
        return self._restore(self._frame.stack(offset, size))


class _StandardMemory:
    """An ``ImageMemory``: that of one image, with the pointers in it at standard addresses."""

    def __init__(self, image: Image, addresses: StandardAddresses) -> None:
        self.machine: Machine = image.machine
        self._image = image
        self._addresses = addresses
        self._base = addresses.base_of(image.module)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """What is in memory of a range of the image."""
        for rva, data in self._image.iter_range(address - self._base, size):
            yield self._base + rva, self._addresses.move_there(data, rva)
