"""Structures in a driver's data that carry a pool tag: a dword there means nothing until its neighbours say what it is.

Layouts and allowed values are those of the WDK's headers and documentation: fltkernel.h (FLT_CONTEXT_REGISTRATION),
wdm.h (GENERAL_LOOKASIDE), ndis.h and nbl.h (NET_BUFFER_LIST_POOL_PARAMETERS, NET_BUFFER_POOL_PARAMETERS), wdfdriver.h
(WDF_DRIVER_CONFIG). Pointers in them are those of the loaded, relocated image.
"""

from __future__ import annotations

import itertools
import struct
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from pykdext.images.image import Image
from pykdext.model import Confidence, Evidence, EvidenceKind, PoolTag
from pykdext.units import count_things

MAX_CONTEXTS = 64
"""Entries of a context registration; there are seven types of contexts, each may have a few sizes."""

MAX_BLOCK_BYTES = 1 << 20
"""Larger blocks are in no lookaside list, and no context is larger."""

_CONTEXT_NAMES = {
    0x01: "volume",
    0x02: "instance",
    0x04: "file",
    0x08: "stream",
    0x10: "stream handle",
    0x20: "transaction",
    0x40: "section",
}
_CONTEXT_END = 0xFFFF
_CONTEXT_FLAGS = 1
_NDIS_OBJECT_TYPE_DEFAULT = 0x80
_MAX_NDIS_PROTOCOL = 0xF
_WDF_INIT_FLAGS = 0x1F
_MAX_POOL_TYPE = 0x3FF
_MAX_LOOKASIDE_DEPTH = 0x1000


class _Layout(NamedTuple):
    """A structure with a tag at ``tag_offset``, as the ``struct`` module has it."""

    tag_offset: int
    form: struct.Struct


class _Words(NamedTuple):
    """A structure that was read: its members, where it begins, and how long its layout is."""

    rva: int
    size: int
    members: Tuple[int, ...]


class ContextEntry(NamedTuple):
    """An entry of a minifilter's context registration.

    Attributes:
        kind: FLT_CONTEXT_TYPE. possible_starts: where its array may begin, by RVA. is_ambiguous: another entry of the
        array has this type, for blocks of another size.
    """

    kind: int
    possible_starts: Tuple[int, ...]
    is_ambiguous: bool


# By pointer size. Members are those that are looked at, in their order; the tag is left out.
_CONTEXT: Dict[int, _Layout] = {
    # ContextType, Flags, ContextCleanupCallback, Size, ContextAllocateCallback, ContextFreeCallback, Reserved1
    4: _Layout(0x0C, struct.Struct("<HHII4xIII")),
    8: _Layout(0x18, struct.Struct("<HH4xQQ8xQQQ")),
}
_LOOKASIDE: Dict[int, _Layout] = {
    # Depth, MaximumDepth, Type, Size, Allocate, Free, ListEntry.Flink, ListEntry.Blink
    4: _Layout(0x20, struct.Struct("<8xHH16xI4xIIIII")),
    8: _Layout(0x28, struct.Struct("<16xHH16xI4xIQQQQ")),
}
_LIST_POOL: Dict[int, _Layout] = {
    # Header.Type, Header.Revision, Header.Size, ProtocolId, fAllocateNetBuffer, ContextSize, DataSize
    size: _Layout(8, struct.Struct("<BBHBBH4xI"))
    for size in (4, 8)
}
_BUFFER_POOL: Dict[int, _Layout] = {
    # Header.Type, Header.Revision, Header.Size, DataSize
    size: _Layout(4, struct.Struct("<BBH4xI"))
    for size in (4, 8)
}
_FRAMEWORK_CONFIG: Dict[int, _Layout] = {
    # Size, EvtDriverDeviceAdd, EvtDriverUnload, DriverInitFlags
    4: _Layout(0x10, struct.Struct("<IIII4x")),
    8: _Layout(0x1C, struct.Struct("<I4xQQI4x")),
}


def describe_registration(image: Image, tag: PoolTag, rva: int) -> Optional[Evidence]:
    """The evidence of a tag in data at ``rva``, if it is the tag of one of these structures; else None. Never fails."""
    for describe, layouts in _STRUCTURES:
        words = _read_words(image, layouts[image.machine.pointer_size], rva)
        meaning = describe(image, words) if words is not None else None
        if meaning is not None:
            return Evidence(
                tag,
                image.module.name,
                EvidenceKind.REGISTRATION,
                Confidence.LIKELY,
                f"tag {tag.text!r} of {meaning}",
                rva,
            )
    return None


def read_context_entry(image: Image, tag_rva: int) -> Optional[ContextEntry]:
    """The entry of a context registration whose tag stands at ``tag_rva``; None if it is none. Never fails."""
    words = _read_words(image, _CONTEXT[image.machine.pointer_size], tag_rva)
    if words is None or _describe_context(image, words) is None:
        return None
    kind = words.members[0]
    before = [words.rva - index * words.size for index in range(1, MAX_CONTEXTS)]
    behind = [words.rva + index * words.size for index in range(1, MAX_CONTEXTS)]
    earlier = list(itertools.takewhile(lambda rva: _read_kind(image, rva) in _CONTEXT_NAMES, before))
    later = itertools.takewhile(lambda rva: _read_kind(image, rva) in _CONTEXT_NAMES, behind)
    others = [_read_kind(image, rva) for rva in (*earlier, *later)]
    return ContextEntry(kind, (words.rva, *earlier), kind in others)


def _read_kind(image: Image, rva: int) -> int:
    raw = image.read(rva, 2) if rva >= 0 else None
    return int.from_bytes(raw, "little") if raw is not None else _CONTEXT_END


def _read_words(image: Image, layout: _Layout, tag_rva: int) -> Optional[_Words]:
    start, size = tag_rva - layout.tag_offset, layout.form.size
    raw = image.read(start, size) if start >= 0 else None
    return _Words(start, size, layout.form.unpack(raw)) if raw is not None else None


def _describe_context(image: Image, words: _Words) -> Optional[str]:
    """One entry of the contexts that a minifilter registers: the filter manager allocates them with the tag."""
    context, flags, cleanup, size, allocate, free, reserved = words.members
    variable = (1 << 8 * image.machine.pointer_size) - 1
    if (
        words.rva % image.machine.pointer_size
        or context not in _CONTEXT_NAMES
        or flags & ~_CONTEXT_FLAGS
        or not (size <= MAX_BLOCK_BYTES or size == variable)
        or allocate  # with routines of its own the filter names no tag
        or free
        or reserved
        or (cleanup and not _is_code(image, cleanup))
        or not _has_context_end(image, words)
    ):
        return None
    sizes = "of any size" if size == variable else f"of {count_things(size, 'byte')}"
    return f"an FLT_CONTEXT_REGISTRATION: {_CONTEXT_NAMES[context]} contexts {sizes}"


def _has_context_end(image: Image, words: _Words) -> bool:
    """Whether entries of known types follow up to the one that ends the array."""
    for index in range(1, MAX_CONTEXTS):
        raw = image.read(words.rva + index * words.size, 2)
        context = int.from_bytes(raw, "little") if raw is not None else 0
        if context not in _CONTEXT_NAMES:
            return context == _CONTEXT_END
    return False


def _describe_lookaside(image: Image, words: _Words) -> Optional[str]:
    """A lookaside list in a variable, initialised: Windows has filled it, and linked it with all others."""
    depth, maximum_depth, pool_type, size, allocate, free, following, preceding = words.members
    if (
        words.rva % (2 * image.machine.pointer_size)
        or not 0 < depth <= maximum_depth <= _MAX_LOOKASIDE_DEPTH
        or pool_type > _MAX_POOL_TYPE
        or not 0 < size <= MAX_BLOCK_BYTES
        or not all(_is_kernel_address(image, address) for address in (allocate, free, following, preceding))
        or (following | preceding) % image.machine.pointer_size
    ):
        return None
    return f"a lookaside list of blocks of {count_things(size, 'byte')}"


def _describe_list_pool(_image: Image, words: _Words) -> Optional[str]:
    """What NdisAllocateNetBufferListPool gets, kept in data to be copied."""
    kind, revision, size, protocol, allocates, context_bytes, data_bytes = words.members
    if (
        not _is_ndis_header(kind, revision, size, words.size)
        or protocol > _MAX_NDIS_PROTOCOL
        or allocates > 1
        or context_bytes % 8
        or data_bytes > MAX_BLOCK_BYTES
    ):
        return None
    return "NET_BUFFER_LIST_POOL_PARAMETERS"


def _describe_buffer_pool(_image: Image, words: _Words) -> Optional[str]:
    """What NdisAllocateNetBufferPool gets, kept in data to be copied."""
    kind, revision, size, data_bytes = words.members
    if not _is_ndis_header(kind, revision, size, words.size) or data_bytes > MAX_BLOCK_BYTES:
        return None
    return "NET_BUFFER_POOL_PARAMETERS"


def _describe_framework_config(image: Image, words: _Words) -> Optional[str]:
    """What WdfDriverCreate gets, kept in data to be copied."""
    size, device_add, unload, flags = words.members
    callbacks = [callback for callback in (device_add, unload) if callback]
    if size != words.size or flags & ~_WDF_INIT_FLAGS or not callbacks:
        return None
    if not all(_is_code(image, callback) for callback in callbacks):
        return None
    return "a WDF_DRIVER_CONFIG: the driver's default tag"


_STRUCTURES: Tuple[Tuple[Callable[[Image, _Words], Optional[str]], Dict[int, _Layout]], ...] = (
    (_describe_context, _CONTEXT),
    (_describe_lookaside, _LOOKASIDE),
    (_describe_list_pool, _LIST_POOL),
    (_describe_buffer_pool, _BUFFER_POOL),
    (_describe_framework_config, _FRAMEWORK_CONFIG),
)


def _is_ndis_header(kind: int, revision: int, size: int, least_bytes: int) -> bool:
    """An NDIS_OBJECT_HEADER of a structure that has at least ``least_bytes``; later revisions append a few members."""
    return kind == _NDIS_OBJECT_TYPE_DEFAULT and revision in {1, 2} and least_bytes <= size <= least_bytes + 0x10


def _is_code(image: Image, address: int) -> bool:
    rva = address - image.module.base
    return any(section.executable and section.rva <= rva < section.rva + section.size for section in image.sections)


def _is_kernel_address(image: Image, address: int) -> bool:
    """In the upper half of the address space; with /3GB on x86 in its upper quarter, which is less."""
    return address >= image.machine.kernel_start
