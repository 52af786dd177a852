"""I/O requests and memory descriptor lists: which driver has a request, whose pages a list describes.

IRP, IO_STACK_LOCATION and MDL are wdm.h's: drivers are compiled against them, so they are the same in every Windows of
one pointer size. Behind a request stand its stack locations, one for each driver that it passes; CurrentLocation counts
them down, and is one more than there are while the request was sent to nobody.
"""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.objects.contents import LIST_VERB, ContentsReader
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import PoolTag

_REQUEST_TYPE = 6
_MAX_LOCATIONS = 64
_MAJORS = (
    "CREATE",
    "CREATE_NAMED_PIPE",
    "CLOSE",
    "READ",
    "WRITE",
    "QUERY_INFORMATION",
    "SET_INFORMATION",
    "QUERY_EA",
    "SET_EA",
    "FLUSH_BUFFERS",
    "QUERY_VOLUME_INFORMATION",
    "SET_VOLUME_INFORMATION",
    "DIRECTORY_CONTROL",
    "FILE_SYSTEM_CONTROL",
    "DEVICE_CONTROL",
    "INTERNAL_DEVICE_CONTROL",
    "SHUTDOWN",
    "LOCK_CONTROL",
    "CLEANUP",
    "CREATE_MAILSLOT",
    "QUERY_SECURITY",
    "SET_SECURITY",
    "POWER",
    "SYSTEM_CONTROL",
    "DEVICE_CHANGE",
    "QUERY_QUOTA",
    "SET_QUOTA",
    "PNP",
)


class _Form(NamedTuple):
    """Where members stand, for one pointer size."""

    request_bytes: int
    stack_count: int
    location_bytes: int
    device: int
    completion: int
    list_process: int
    list_bytes: int


_FORMS = {
    4: _Form(0x70, 0x22, 0x24, 0x14, 0x1C, 0x8, 0x14),
    8: _Form(0xD0, 0x42, 0x48, 0x28, 0x38, 0x10, 0x28),
}


class RequestReader:
    """Reads requests and lists of one kernel; ``contents`` knows drivers and processes."""

    def __init__(self, pages: PageReader, contents: ContentsReader, pointer_bytes: int) -> None:
        self._pages = pages
        self._contents = contents
        self._width = pointer_bytes
        self._form = _FORMS[pointer_bytes]
        self._describers: Dict[PoolTag, Callable[[int], Optional[str]]] = {
            PoolTag(b"Irp "): self.describe_request,
            PoolTag(b"Mdl "): self._describe_list,
        }

    @property
    def tags(self) -> Sequence[PoolTag]:
        """The tags whose blocks this reads."""
        return tuple(self._describers)

    def describe(self, tag: PoolTag, body: int) -> Optional[str]:
        """In a few words who has what a block of a tag holds; None: it does not hold what the tag says."""
        return self._describers[tag](body)

    def describe_request(self, body: int) -> Optional[str]:
        """The driver that has a request, and what it asks for; None: no request."""
        counts = self._read_counts(body)
        if counts is None:
            return None
        count, current = counts
        if current > count:
            return "sent to no driver"
        if current < 1:
            return "completed"
        location = body + self._form.request_bytes + (current - 1) * self._form.location_bytes
        major = self._pages.number(location, 1)
        what = f"IRP_MJ_{_MAJORS[major]}" if major is not None and major < len(_MAJORS) else "of an unknown kind"
        driver = self._find_driver(location)
        return None if driver is None else f"in {driver}, {what}"

    def _read_counts(self, body: int) -> Optional[Tuple[int, int]]:
        """Stack locations and the current one of a request whose size agrees with them."""
        form = self._form
        try:
            head = self._pages.read(body, form.stack_count + 2)
        except MemoryReadError:
            return None
        kind, size = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
        count, current = head[form.stack_count], head[form.stack_count + 1]
        if kind != _REQUEST_TYPE or not 0 < count <= _MAX_LOCATIONS or current > count + 1:
            return None
        return (count, current) if size >= form.request_bytes + count * form.location_bytes else None

    def _find_driver(self, location: int) -> Optional[str]:
        """The driver of a location's device; without one the place where its completion routine is."""
        device = self._pages.pointer(location + self._form.device)
        driver = self._contents.driver_of(device) if device else None
        if driver is not None:
            return driver
        routine = self._pages.pointer(location + self._form.completion)
        module = self._contents.find_module(routine) if routine else None
        return None if module is None or not routine else f"completion of {module.name}+0x{routine - module.base:x}"

    def _describe_list(self, body: int) -> Optional[str]:
        """The process whose pages a memory descriptor list describes."""
        form, width = self._form, self._width
        size = self._pages.number(body + width, 2)
        described = self._pages.number(body + form.list_bytes, 4)
        process = self._pages.pointer(body + form.list_process)
        pages = 0 if described is None else -(-described // 0x1000)
        if size is None or described is None or process is None or not described:
            return None
        head_bytes = form.list_bytes + 8
        if size < head_bytes + pages * width or (size - head_bytes) % width:
            return None
        if not process:
            return "of no process"
        return self._contents.describe_process(process, LIST_VERB)
