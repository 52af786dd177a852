"""Tables of functions that a driver looks up in a loop: each name stands beside the address of the variable to fill."""

from __future__ import annotations

from typing import Iterator, Mapping, Optional, Tuple

from pykdext.images.image import Image

MAX_ROWS = 64
"""Rows of a table that are looked at before and behind one of its names."""


def iter_filled(image: Image, pointers: Mapping[int, str]) -> Iterator[Tuple[int, str]]:
    """The variables that such tables tell of, with the names. ``pointers``: to the names, by RVA.

    Rows are a name and the address of a variable, or the other way around: which of both, the ends of the table tell.
    Where they leave that open nothing is told.
    """
    for rva, name in pointers.items():
        variable = _find_variable(image, rva)
        if variable is not None:
            yield variable, name


def _find_variable(image: Image, name_rva: int) -> Optional[int]:
    size = image.machine.pointer_size
    first = last = name_rva
    for _ in range(MAX_ROWS):
        if _read_variable(image, first - size) is None or not _leads_to_text(image, first - 2 * size):
            break
        first -= 2 * size
    for _ in range(MAX_ROWS):
        if _read_variable(image, last + size) is None or not _leads_to_text(image, last + 2 * size):
            break
        last += 2 * size
    before, behind = _read_variable(image, first - size), _read_variable(image, last + size)
    if (before is None) == (behind is None):
        return None
    return _read_variable(image, name_rva + size if before is None else name_rva - size)


def _read_variable(image: Image, rva: int) -> Optional[int]:
    """The variable to which the pointer at ``rva`` leads: in memory that the driver may write and does not run."""
    target = _read_pointer(image, rva)
    is_data = target is not None and any(
        section.writable and section.holds_data and section.rva <= target < section.rva + section.size
        for section in image.sections
    )
    return target if target is not None and is_data and target % image.machine.pointer_size == 0 else None


def _leads_to_text(image: Image, rva: int) -> bool:
    """Whether the pointer at ``rva`` leads to two letters, of one byte or of two."""
    target = _read_pointer(image, rva)
    text = image.read(target, 4) if target is not None else None
    if text is None or not chr(text[0]).isalpha():
        return False
    return chr(text[1]).isalnum() or (text[1] == text[3] == 0 and chr(text[2]).isalnum())


def _read_pointer(image: Image, rva: int) -> Optional[int]:
    raw = image.read(rva, image.machine.pointer_size) if 0 <= rva < image.size else None
    target = int.from_bytes(raw, "little") - image.module.base if raw is not None else -1
    return target if 0 < target < image.size else None
