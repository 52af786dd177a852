"""Jumps of x86 and x64 code to somewhere else: import thunks, long branches, dispatchers.

Encodings are those of the Intel SDM.
"""

from __future__ import annotations

import re
from typing import Optional, Pattern, Tuple

from pykdext.attribution.flow.values import Atom, ImageRead, Unknown, address_in
from pykdext.images.image import Image

_LANDING_PAD = b"\xf3\x0f\x1e\xfa"
_JUMP_RELATIVE = re.compile(rb"\xe9(....)", re.DOTALL)
_JUMP_SHORT = re.compile(rb"\xeb(.)", re.DOTALL)
_JUMP_POINTER = re.compile(rb"\x48?\xff\x25(....)", re.DOTALL)
_JUMP_REGISTER = re.compile(rb"[\x40-\x4f]?\xff[\xe0-\xe7]", re.DOTALL)
# mov rax | r10 | r11, [rip+n] or mov eax, [n] and a jump: to that register, or to a dispatcher that jumps to it.
_LOAD_AND_JUMP_X64 = re.compile(
    rb"(?:\x48\x8b\x05|\x4c\x8b[\x15\x1d])(....)(?:[\x40-\x4f]?\xff[\x25\xe0-\xe7]|\xe9)", re.DOTALL
)
_LOAD_AND_JUMP_X86 = re.compile(rb"\xa1(....)\xff\xe0", re.DOTALL)


def read_x64_thunk(image: Image, rva: int, code: bytes) -> Optional[Atom]:
    """Where the x64 code at ``rva`` jumps at once; None if it does something else."""
    return _read_jump(image, rva, code) or _read_pointer(image, rva, code, _LOAD_AND_JUMP_X64, is_relative=True)


def read_x86_thunk(image: Image, rva: int, code: bytes) -> Optional[Atom]:
    """The same for x86."""
    return _read_jump(image, rva, code) or _read_pointer(image, rva, code, _LOAD_AND_JUMP_X86, is_relative=False)


def _skip_landing_pad(rva: int, code: bytes) -> Tuple[int, bytes]:
    pad = len(_LANDING_PAD) if code.startswith(_LANDING_PAD) else 0
    return rva + pad, code[pad:]


def _read_jump(image: Image, rva: int, code: bytes) -> Optional[Atom]:
    """A jump to a place that stands in it."""
    rva, code = _skip_landing_pad(rva, code)
    for pattern in (_JUMP_RELATIVE, _JUMP_SHORT):
        match = pattern.match(code)
        if match:
            distance = int.from_bytes(match.group(1), "little", signed=True)
            return address_in(image, rva + match.end() + distance)
    return None


def _read_pointer(
    image: Image, rva: int, code: bytes, load_and_jump: Pattern[bytes], *, is_relative: bool
) -> Optional[Atom]:
    """A jump through a pointer of the image, or to what a register holds."""
    rva, code = _skip_landing_pad(rva, code)
    match = _JUMP_POINTER.match(code) or load_and_jump.match(code)
    if match:
        place = int.from_bytes(match.group(1), "little", signed=is_relative)
        start = rva + match.end(1) if is_relative else -image.module.base
        return ImageRead(start + place, image.machine.pointer_size)
    return Unknown() if _JUMP_REGISTER.match(code) else None
