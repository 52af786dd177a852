"""The load configuration of an image: what control-flow guard needs of it."""

from __future__ import annotations

from typing import Optional

from pykdext.images.image import Image

_DIRECTORY = 10
_CHECK_POINTER_OFFSET = {4: 0x48, 8: 0x70}
"""By pointer size: GuardCFCheckFunctionPointer of IMAGE_LOAD_CONFIG_DIRECTORY32 and 64 (winnt.h)."""


def read_guard_check_slot(image: Image) -> Optional[int]:
    """The RVA of the pointer to the function that checks the targets of calls; None if the image tells none."""
    rva, size = image.directory(_DIRECTORY)
    pointer_size = image.machine.pointer_size
    offset = _CHECK_POINTER_OFFSET[pointer_size]
    raw = image.read(rva, offset + pointer_size) if rva and size else None
    if raw is None or int.from_bytes(raw[:4], "little") < len(raw):  # Size; the directory's own is another on old x86
        return None
    slot_rva = int.from_bytes(raw[offset:], "little") - image.module.base
    return slot_rva if 0 < slot_rva < image.size else None
