"""The processes of the kernel's list, those that have exited and are still held among them.

The list (nt!PsActiveProcessHead) needs no symbols; EPROCESS is known by build, else it is recognised by the System
process: number 4, of that name, whose handle table bears the same number. A process leaves the list when its object is
deleted, not when it exits (ReactOS, PspDeleteProcess).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.handletables import HandleTableReader
from pykdext.kernel.objects.headers import HeaderReader
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Struct
from pykdext.model.objects import Process, ProcessList
from pykdext.targets.linkedlists import walk_list
from pykdext.work import UNWATCHED, Work

MAX_PROCESSES = 262_144
"""Machines with 71,268 exited processes have been seen."""

_SYSTEM_PID = 4
_PROCESS_OBJECT = 3  # DISPATCHER_HEADER.Type
_EXITING = 4
_DELETED = 8
_SESSION_ID = 8
_MAX_SESSION = 1 << 20
_FIRST_WITH_OTHER_SESSIONS = 26_000
_NAME_BYTES = 15
_MAX_PID = 1 << 26
_MAX_THREADS, _MAX_CHARGE = 1 << 22, 1 << 47  # more of one process are damage
_TRIED = 64  # processes from either end of the list, where System is not in memory
_FILETIME_ORIGIN = datetime(1601, 1, 1, tzinfo=timezone.utc)
_MAX_FILETIME = 0x0300_0000_0000_0000
_LETTERS = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))
_PATHS = (
    "UniqueProcessId",
    "ActiveProcessLinks",
    "CreateTime",
    "ExitTime",
    "Flags",
    "InheritedFromUniqueProcessId",
    "Session",
    "ObjectTable",
    "ImageFileName",
    "ActiveThreads",
    "CommitCharge",
    "ProcessQuotaUsage[0]",
    "ProcessQuotaUsage[1]",
    "QuotaUsage",
)
_SIZES = {"ImageFileName": _NAME_BYTES, "CreateTime": 8, "ExitTime": 8, "Flags": 4, "ActiveThreads": 4}
_OLD_QUOTA = "QuotaUsage"


@dataclass(frozen=True)
class _Form:
    """Where members of EPROCESS stand; ``span`` is the first byte and the end of what is read, from the body."""

    struct: Struct
    links: int
    old_quota: Optional[int]


class ProcessReader:
    """Reads the processes of one kernel."""

    def __init__(self, kernel: Kernel, pages: PageReader, headers: HeaderReader, tables: HandleTableReader) -> None:
        self._kernel = kernel
        self._target = kernel.target
        self._width = kernel.target.pointer_size
        self._pages = pages
        self._headers = headers
        self._tables = tables
        self._found: Dict[int, Process] = {}
        self._form: Optional[_Form] = None
        self._sessions: Dict[int, Optional[int]] = {}

    def read(self, work: Work = UNWATCHED) -> ProcessList:
        """The whole list; where it is torn, what could be reached from both ends."""
        head = self._kernel.find_symbol("PsActiveProcessHead")
        if head is None:
            return ProcessList(lost=None, warnings=("processes: nothing in this source tells where their list is",))
        first = self._pages.pointer(head.address)
        if first is None:
            return ProcessList(
                lost=None, warnings=(f"processes: the head of their list at 0x{head.address:x} is not in memory",)
            )
        if first == head.address:
            return ProcessList(warnings=("processes: the kernel's list is empty",))
        self._form = self._find_form(first)
        if self._form is None:  # the head may be torn, or System not in memory: the other end leads to the others
            ends = self._walk_back(head.address)
            self._form = self._find_form(ends[-1] if ends else 0) or self._find_form_of_any(ends)
        if self._form is None:
            known = "the structure of this kernel's processes fits no known layout"
            if not self._pages.pointer(first):
                known = f"the head of their list at 0x{head.address:x} leads to 0x{first:x}, which is not in memory"
            return ProcessList(lost=None, warnings=(f"processes: {known}",))
        return self._walk(head.address, self._form, work)

    def read_at(self, addresses: Sequence[int]) -> Tuple[Process, ...]:
        """The processes whose EPROCESS are at ``addresses`` and in memory, of a kernel whose list was read."""
        form = self._form
        if form is None:
            return ()
        start, end = self._span(form)
        found = ((address, self._read_body(address, start, end)) for address in addresses)
        parsed = (self._parse(address, data, start, form) for address, data in found if data is not None)
        return tuple(process for process in parsed if 0 < process.pid < _MAX_PID)

    def _walk_back(self, head: int) -> List[int]:
        """The links of the processes from the list's end on, as far as they lead."""
        link, found = self._pages.pointer(head + self._width), []
        seen: Set[int] = set()
        while link and link != head and link not in seen and len(seen) < MAX_PROCESSES:
            seen.add(link)
            found.append(link)
            link = self._pages.pointer(link + self._width)
        return found

    def _find_form(self, first_link: int) -> Optional[_Form]:
        return self._find_form_by(lambda form: self._fits(form, first_link))

    def _find_form_of_any(self, links: Sequence[int]) -> Optional[_Form]:
        """The layout by any of the last and first processes of the list, where System cannot be read."""
        tried = dict.fromkeys([*links[:_TRIED], *links[-_TRIED:]])
        return self._find_form_by(lambda form: any(self._fits_other(form, link) for link in tried))

    def _find_form_by(self, fits: Callable[[Struct], bool]) -> Optional[_Form]:
        sizes = {name: size for name, size in _SIZES.items() if name != "ImageFileName"}
        struct = find_form(self._kernel, "_EPROCESS", _PATHS, fits, sizes)
        if struct is None:
            return None
        links = struct.offset("ActiveProcessLinks")
        assert links is not None
        quota = None if struct.has("ProcessQuotaUsage[0]") else struct.offset(_OLD_QUOTA)
        return _Form(struct, links, quota)

    def _fits_other(self, form: Struct, link: int) -> bool:
        """Whether a process bears the number that stands in its handle table, too, and a name."""
        offsets = [form.offset(name) for name in ("ActiveProcessLinks", "UniqueProcessId", "ImageFileName")]
        links, pid_at, name_at = (-1 if offset is None else offset for offset in offsets)
        table = form.offset("ObjectTable")
        if min(links, pid_at, name_at) < 0 or table is None:
            return False
        body = link - links
        pid, address = self._pages.pointer(body + pid_at), self._pages.pointer(body + table)
        if self._pages.number(body, 1) != _PROCESS_OBJECT or not pid or not address or pid % 4 or pid >= _MAX_PID:
            return False
        try:
            name = self._pages.read(body + name_at, _NAME_BYTES).split(b"\0", 1)[0]
        except MemoryReadError:
            return False
        return len(name) > 1 and name.isascii() and name.decode().isprintable() and self._tables.owner(address) == pid

    def _fits(self, form: Struct, first_link: int) -> bool:
        """Whether the first process is System: its number, its name, and the number in its handle table."""
        places = {name: form.offset(name) for name in ("UniqueProcessId", "ActiveProcessLinks", "ImageFileName")}
        links, pid, name = places["ActiveProcessLinks"], places["UniqueProcessId"], places["ImageFileName"]
        table = form.offset("ObjectTable")
        if links is None or pid is None or name is None or table is None:
            return False
        body = first_link - links
        if self._pages.number(body, 1) != _PROCESS_OBJECT or self._pages.pointer(body + pid) != _SYSTEM_PID:
            return False
        try:
            if self._pages.read(body + name, 7) != b"System\0":
                return False
        except MemoryReadError:
            return False
        address = self._pages.pointer(body + table)
        owner = self._tables.owner(address) if address else None
        return owner in (None, _SYSTEM_PID)

    def _walk(self, head: int, form: _Form, work: Work) -> ProcessList:
        unreadable: Set[int] = set()
        start, end = self._span(form)

        def read(address: int, size: int) -> bytes:
            if address == head or address in unreadable:
                return self._target.read_virtual(address, size)
            if work.is_ended:
                raise MemoryReadError(address, size)
            body = address - form.links
            data = self._read_body(body, start, end)
            if data is None:
                unreadable.add(address)
                return self._target.read_virtual(address, size)
            self._found[address] = self._parse(body, data, start, form)
            at = form.links - start
            return data[at : at + size]

        walk = walk_list(read, self._width, head, MAX_PROCESSES)
        processes = tuple(self._found[link] for link in walk.entries if link in self._found)
        warnings: List[str] = []
        if walk.torn_at is not None:
            missing = "some may be missing" if walk.lost is None else f"{walk.lost:,} missing"
            warnings.append(
                f"processes: their list is torn at 0x{walk.torn_at:x} ({walk.reason}); {len(processes):,} read from "
                f"both ends, {missing}"
            )
        if len(processes) < len(walk.entries):
            lost = len(walk.entries) - len(processes)
            warnings.append(f"processes: {lost:,} of {len(walk.entries):,} are only partly in memory")
        return ProcessList(processes, walk.lost, form.struct.source, tuple(warnings))

    def _read_body(self, body: int, start: int, end: int) -> Optional[bytes]:
        """The bytes of a process with its header; without it (as zeros) where small dumps hold none."""
        try:
            return self._target.read_virtual(body + start, end - start)
        except MemoryReadError:
            pass
        try:
            return bytes(-start) + self._target.read_virtual(body, end)
        except MemoryReadError:
            return None

    def _span(self, form: _Form) -> Tuple[int, int]:
        """First byte and end of what is read of a process, from its body: the header before it among them."""
        end = max(form.struct.end, (form.struct.offset("ImageFileName") or 0) + _NAME_BYTES)
        if form.old_quota is not None:
            end = max(end, form.old_quota + 3 * self._width)
        return -self._headers.body_offset, end

    def _parse(self, body: int, data: bytes, start: int, form: _Form) -> Process:
        struct, width = form.struct, self._width
        record: Mapping[str, Any] = struct.parse(data[struct.start - start :], struct.start)
        header = self._headers.parse(body + start, data[: self._headers.body_offset])
        image_at = (struct.offset("ImageFileName") or 0) - start
        charges: Tuple[Optional[int], Optional[int]] = (
            record["ProcessQuotaUsage[0]"],
            record["ProcessQuotaUsage[1]"],
        )
        if form.old_quota is not None:
            at = form.old_quota - start
            # QuotaUsage of XP to Vista: nonpaged and paged pool, page file
            charges = (
                int.from_bytes(data[at : at + width], "little"),
                int.from_bytes(data[at + width : at + 2 * width], "little"),
            )
        exit_time, flags = record["ExitTime"], record["Flags"] or 0
        exited_at = self._as_time(exit_time)
        has_exited = bool(exited_at) or bool(flags & (_EXITING | _DELETED) and not record["ActiveThreads"])
        table = record["ObjectTable"] or None
        counted = self._tables.count(table) if table else None
        return Process(
            address=body,
            pid=record["UniqueProcessId"],
            parent_pid=_as_pid(record["InheritedFromUniqueProcessId"]),
            image=_as_name(data[image_at : image_at + _NAME_BYTES]),
            session_address=record["Session"] or None,
            session=self._session_number(record["Session"]) if record["Session"] else None,
            started_at=self._as_time(record["CreateTime"]),
            exited_at=exited_at,
            has_exited=has_exited,
            is_exiting=bool(flags & _EXITING),
            active_threads=_believe(record["ActiveThreads"], _MAX_THREADS),
            handle_table=table,
            handles=None if counted is None else counted.handles,
            handle_slots=None if counted is None else counted.slots,
            nonpaged_charge_bytes=_believe(charges[0], _MAX_CHARGE),
            paged_charge_bytes=_believe(charges[1], _MAX_CHARGE),
            commit_pages=_believe(record["CommitCharge"], _MAX_CHARGE >> 12),
            object_handles=header.handle_count if header.is_plausible else None,
            object_references=self._headers.references(header) if header.is_plausible else None,
        )

    def _session_number(self, address: int) -> Optional[int]:
        """The number of a session, which stands in one place in every kernel up to Windows 11 23H2."""
        if address not in self._sessions:
            form = self._kernel.struct("_MM_SESSION_SPACE", "SessionId")
            place = None if form is None else form.offset("SessionId")
            if place is None and (self._kernel.build or _FIRST_WITH_OTHER_SESSIONS) < _FIRST_WITH_OTHER_SESSIONS:
                place = _SESSION_ID
            number = None if place is None else self._pages.number(address + place, 4)
            self._sessions[address] = number if number is not None and number < _MAX_SESSION else None
        return self._sessions[address]

    def _as_time(self, filetime: Optional[int]) -> Optional[datetime]:
        """A FILETIME as a time; None for 0, and for what is no time up to the moment of the dump."""
        if not filetime or not 0 < filetime < _MAX_FILETIME:
            return None
        moment = _FILETIME_ORIGIN + timedelta(microseconds=filetime // 10)
        return moment if self._latest is None or moment <= self._latest else None

    @cached_property
    def _latest(self) -> Optional[datetime]:
        """No process began or ended later; None: the source does not say when it was taken."""
        taken_at = self._target.facts.taken_at
        return None if taken_at is None else taken_at + timedelta(days=1)


def _believe(number: Optional[int], limit: int) -> Optional[int]:
    """A count; None: not known, or so large that it is none."""
    return number if number is not None and number <= limit else None


def _as_pid(number: Optional[int]) -> Optional[int]:
    return number if number is not None and number < _MAX_PID else None


def _as_name(data: bytes) -> str:
    """Letters up to the first zero; others than printable ASCII as a question mark."""
    return data.split(b"\0", 1)[0].translate(_LETTERS).decode("ascii")
