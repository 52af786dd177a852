"""Tells a 64-bit kernel crash dump from everything else, and reads its header.

What is not such a dump is refused in one line that names the file's kind and what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional, Tuple

from pykdext.errors import DumpFormatError, NotKernelTargetError, UnsupportedDumpError
from pykdext.model import BugCheck
from pykdext.targets.dumpformat import DUMP_HEADER64, HEADER64_BYTES, MAX_HEADER_RUNS
from pykdext.targets.filebytes import FileBytes

FULL_DUMP = 1
BITMAP_FULL_DUMP = 5
BITMAP_KERNEL_DUMP = 6
AUTOMATIC_DUMP = 7

MAX_PROCESSORS = 4096
"""More than any Windows supports (2,048 on 64-bit): a larger count is damage."""

MAX_UPTIME_SECONDS = 100 * 365 * 24 * 3600

_MACHINE_X64 = 0x8664
_MACHINE_NAMES = {0x014C: "x86", 0x01C4: "ARM", 0x0200: "Itanium", 0xAA64: "ARM64"}

_ENCRYPTED = 0x100
_INSUFFICIENT_DUMP_FILE = 0x4
_LIVE_DUMP = 0x10
_FILTERED_DUMP = 0x40

_MAKE_KERNEL_DUMP = "take a kernel or automatic memory dump (CrashControl\\CrashDumpEnabled 2 or 7)"
_CONVERT = "open it in WinDbg and write it anew with .dump /f"

_UNREAD_TYPES = {
    2: ("a kernel summary dump (type 2, before Windows 8)", _CONVERT),
    3: ("a header-only dump (type 3): it holds no memory", _MAKE_KERNEL_DUMP),
    4: ("a small memory dump (triage, type 4): it holds no pool tag tables", _MAKE_KERNEL_DUMP),
    8: ("a range dump of kernel memory (type 8)", _CONVERT),
    9: ("a range dump of kernel and user memory (type 9)", _CONVERT),
    10: ("a range dump of all memory (type 10)", _CONVERT),
}

_FOREIGN_FILES = (
    (b"hibr", "a hibernation file", "it is not a crash dump"),
    (b"HIBR", "a hibernation file", "it is not a crash dump"),
    (b"wake", "a hibernation file that was resumed from", "it is not a crash dump"),
    (b"\x7fELF", "an ELF file", "QEMU's elf2dmp makes a dump of a virtual machine's core"),
    (b"PK\x03\x04", "a ZIP archive", "unpack the dump first"),
    (b"MSCF", "a cabinet archive", "unpack the dump first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack the dump first"),
    (b"MZ", "a program file", "give a crash dump"),
)

_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class DumpHeader:
    """What DUMP_HEADER64 says. None: the field was never set (it still holds the filler ``PAGE``) or is absurd.

    ``runs`` are ``(first page number, pages)`` of the physical memory block: at most as many as the header can hold,
    also where ``run_count`` says more.
    """

    dump_type: int
    directory_table_base: int
    build: Optional[int]
    processors: Optional[int]
    bugcheck: Optional[BugCheck]
    taken_at: Optional[datetime]
    uptime_seconds: Optional[float]
    attributes: int
    debugger_data_block: Optional[int]
    loaded_module_list: Optional[int]
    active_process_head: Optional[int]
    run_count: Optional[int]
    page_count: Optional[int]
    runs: Tuple[Tuple[int, int], ...]

    @property
    def is_incomplete(self) -> bool:
        """The kernel itself noted that the dump file had too little room."""
        return bool(self.attributes & _INSUFFICIENT_DUMP_FILE)

    @property
    def kind(self) -> str:
        """The kind of dump in words, e.g. ``kernel bitmap dump (type 6)``."""
        name = {FULL_DUMP: "complete dump", BITMAP_FULL_DUMP: "full bitmap dump"}.get(
            self.dump_type, "kernel bitmap dump"
        )
        traits = [f"type {self.dump_type}"]
        if self.attributes & _LIVE_DUMP:
            traits.append("taken live")
        if self.attributes & _FILTERED_DUMP:
            traits.append("active memory only")
        return f"{name} ({', '.join(traits)})"


def parse_header(file: FileBytes) -> DumpHeader:
    """The header of an x64 kernel dump with physical pages.

    NotKernelTargetError for a dump of a user-mode process, UnsupportedDumpError for a kernel dump of a kind
    that is not read, DumpFormatError for what is no dump or is damaged.
    """
    data = file.read_at(0, HEADER64_BYTES)
    _refuse_foreign(file.path, data)
    if len(data) < HEADER64_BYTES:
        raise DumpFormatError(
            file.path, 0, f"a file of {len(data)} bytes", f"a header of {HEADER64_BYTES}", "it is cut short"
        )
    fields = DUMP_HEADER64.parse(data)
    attributes = fields.Attributes or 0
    _refuse_unread(file.path, fields.DumpType, fields.MachineImageType, attributes)
    if not fields.DirectoryTableBase:
        raise DumpFormatError(
            file.path,
            0x10,
            "no DirectoryTableBase",
            "the physical address of the kernel's page tables",
            "the tool that wrote the dump did not finish its header",
        )
    block = fields.PhysicalMemoryBlock
    stored_runs = min(block.NumberOfRuns or 0, MAX_HEADER_RUNS)
    return DumpHeader(
        dump_type=fields.DumpType,
        directory_table_base=fields.DirectoryTableBase,
        build=fields.MinorVersion,
        processors=fields.NumberProcessors if 0 < (fields.NumberProcessors or 0) <= MAX_PROCESSORS else None,
        bugcheck=_bugcheck(fields.BugCheckCode, tuple(fields.BugCheckParameter)),
        taken_at=_moment(fields.SystemTime),
        uptime_seconds=_duration_seconds(fields.SystemUpTime),
        attributes=attributes,
        debugger_data_block=fields.KdDebuggerDataBlock or None,
        loaded_module_list=fields.PsLoadedModuleList or None,
        active_process_head=fields.PsActiveProcessHead or None,
        run_count=block.NumberOfRuns,
        page_count=block.NumberOfPages,
        runs=tuple((run.BasePage, run.PageCount) for run in block.Run[:stored_runs]),
    )


def _refuse_foreign(path: str, data: bytes) -> None:
    """Raise for whatever does not begin like a 64-bit kernel dump."""
    expected = "a 64-bit kernel dump (PAGEDU64)"
    if data.startswith(b"PAGEDU64"):
        return
    if not data:
        raise DumpFormatError(path, 0, "an empty file", expected, "the copy failed, or the disk was full")
    if data.startswith(b"PAGEDUMP"):
        raise UnsupportedDumpError(path, 0, "a 32-bit kernel dump (PAGEDUMP)", expected, "32-bit dumps are not read")
    if data.startswith(b"MDMP"):
        raise NotKernelTargetError(
            f"{path}: at 0x0: found the dump of a user-mode process (MDMP), expected {expected}. "
            f"Hint: a process has no kernel pool; {_MAKE_KERNEL_DUMP}"
        )
    for magic, found, hint in _FOREIGN_FILES:
        if data.startswith(magic):
            raise DumpFormatError(path, 0, found, expected, hint)
    if not data.strip(b"\0"):
        raise DumpFormatError(path, 0, "zeros", expected, "the dump was allocated, but never written")
    raise DumpFormatError(path, 0, f"signature {data[:8]!r}", expected)


def _refuse_unread(path: str, dump_type: Optional[int], machine: Optional[int], attributes: int) -> None:
    """Raise for a 64-bit kernel dump of a kind that is not read."""
    if dump_type in _UNREAD_TYPES:
        found, hint = _UNREAD_TYPES[dump_type]
        raise UnsupportedDumpError(path, 0xF98, found, "a complete or bitmap dump (types 1, 5, 6)", hint)
    if dump_type not in (FULL_DUMP, BITMAP_FULL_DUMP, BITMAP_KERNEL_DUMP, AUTOMATIC_DUMP):
        found = "no DumpType" if dump_type is None else f"DumpType 0x{dump_type:x}"
        raise DumpFormatError(path, 0xF98, found, "a complete or bitmap dump (types 1, 5, 6)")
    if machine != _MACHINE_X64:
        found = "no machine type" if machine is None else f"machine type 0x{machine:x}"
        if machine in _MACHINE_NAMES:
            found = f"a dump of {_MACHINE_NAMES[machine]}"
        raise UnsupportedDumpError(path, 0x30, found, "a dump of x64 (0x8664)")
    if attributes & _ENCRYPTED:
        raise UnsupportedDumpError(
            path, 0x1050, "an encrypted dump", "a plain one", "decrypt it with its machine's key first"
        )


def _bugcheck(code: Optional[int], parameters: Tuple[Optional[int], ...]) -> Optional[BugCheck]:
    """The stop code; a parameter that was never set counts as 0, as WinDbg shows it."""
    return None if code is None else BugCheck(code, tuple(parameter or 0 for parameter in parameters))


def _moment(filetime: Optional[int]) -> Optional[datetime]:
    """A FILETIME (100 ns since 1601, UTC) as a moment; None if it is unset or behind the calendar's end."""
    if not filetime:
        return None
    try:
        return _FILETIME_EPOCH + timedelta(microseconds=filetime // 10)
    except OverflowError:
        return None


def _duration_seconds(hundred_nanoseconds: Optional[int]) -> Optional[float]:
    """An interval of 100 ns units in seconds; None if it is unset or longer than any machine runs."""
    if hundred_nanoseconds is None:
        return None
    seconds = hundred_nanoseconds / 10_000_000
    return seconds if seconds <= MAX_UPTIME_SECONDS else None
