"""Direct calls and jumps in an image's code to given places, also to places outside of it.

Encodings are those of the Intel SDM (``E8`` and ``E9`` with a displacement from the next instruction) and of the Arm
Architecture Reference Manual (``bl`` and ``b``). Code is not decoded: bytes of other instructions may look like a call.
"""

from __future__ import annotations

import re
import struct
from typing import Collection, FrozenSet, Iterator, Tuple

from pykdext.images.image import Image
from pykdext.model import Machine

_INTEL_CALL = re.compile(rb"[\xe8\xe9](?=.{4})", re.DOTALL)
_INTEL_BYTES = 5
_DISPLACEMENT = struct.Struct("<i")

_ARM64_CALL = re.compile(rb"[\x14-\x17\x94-\x97]")  # the last byte of the instruction
_ARM64_BYTES = 4
_ARM64_REACH = 1 << 26


def find_direct_calls(image: Image, targets: Collection[int]) -> Tuple[int, ...]:
    """The RVAs of what calls, or jumps to, one of ``targets``: RVAs, negative or large for what is outside."""
    mask = (1 << 8 * image.machine.pointer_size) - 1
    wanted = frozenset(target & mask for target in targets)
    iter_calls = _iter_arm64_calls if image.machine is Machine.ARM64 else _iter_intel_calls
    return tuple(
        place
        for section in image.sections
        if section.executable and wanted
        for rva, code in image.iter_present(section)
        for place in iter_calls(rva, code, wanted, mask)
    )


def _iter_intel_calls(rva: int, code: bytes, wanted: FrozenSet[int], mask: int) -> Iterator[int]:
    read_displacement = _DISPLACEMENT.unpack_from
    for match in _INTEL_CALL.finditer(code):
        end = match.end()
        if rva + end + _INTEL_BYTES - 1 + read_displacement(code, end)[0] & mask in wanted:
            yield rva + end - 1


def _iter_arm64_calls(rva: int, code: bytes, wanted: FrozenSet[int], mask: int) -> Iterator[int]:
    for match in _ARM64_CALL.finditer(code):
        offset = match.end() - _ARM64_BYTES
        if offset >= 0 and (rva + offset) % _ARM64_BYTES == 0:
            steps = int.from_bytes(code[offset : offset + _ARM64_BYTES], "little") % _ARM64_REACH
            steps -= _ARM64_REACH if steps >= _ARM64_REACH >> 1 else 0
            if rva + offset + _ARM64_BYTES * steps & mask in wanted:
                yield rva + offset
