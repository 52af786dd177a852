"""Tells a kernel crash dump from everything else, and reads its header, 32-bit or 64-bit.

What is not such a dump is refused in one line that names the file's kind and what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional, Tuple

from pykdext.errors import DumpFormatError, NotKernelTargetError, UnsupportedDumpError
from pykdext.model import BugCheck, Machine
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.dump.format import HEADER32, HEADER64, HeaderFormat
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.foreignfiles import recognise_foreign
from pykdext.units import count_things

FULL_DUMP = 1
SUMMARY_DUMP = 2
TRIAGE_DUMP = 4
BITMAP_FULL_DUMP = 5
BITMAP_KERNEL_DUMP = 6
AUTOMATIC_DUMP = 7
KERNEL_RANGE_DUMP = 8
KERNEL_AND_USER_RANGE_DUMP = 9
COMPLETE_RANGE_DUMP = 10

MAX_PROCESSORS = 4096
"""More than any Windows supports (2,048 on 64-bit): a larger count is damage."""

MAX_UPTIME_SECONDS = 100 * 365 * 24 * 3600

_KINDS = {
    FULL_DUMP: "complete dump",
    SUMMARY_DUMP: "kernel summary dump",
    TRIAGE_DUMP: "small memory dump",
    BITMAP_FULL_DUMP: "full bitmap dump",
    BITMAP_KERNEL_DUMP: "kernel bitmap dump",
    AUTOMATIC_DUMP: "kernel bitmap dump",
    KERNEL_RANGE_DUMP: "kernel range dump",
    KERNEL_AND_USER_RANGE_DUMP: "kernel and user range dump",
    COMPLETE_RANGE_DUMP: "complete range dump",
}
"""The kinds of dump that are read, in words, by their DumpType."""

_OF_PROCESSES = "pages of processes"
_LEFT_OUT = {
    SUMMARY_DUMP: (_OF_PROCESSES, "free pages"),
    BITMAP_KERNEL_DUMP: (_OF_PROCESSES, "free pages"),
    AUTOMATIC_DUMP: (_OF_PROCESSES, "free pages"),
    KERNEL_RANGE_DUMP: (_OF_PROCESSES, "free pages"),
    KERNEL_AND_USER_RANGE_DUMP: ("free pages",),
}

_HEADER_ONLY_DUMP = 3

_MACHINE_NAMES = {0x014C: "x86", 0x01C4: "ARM", 0x0200: "Itanium", 0x8664: "x64", 0xAA64: "ARM64"}

_ENCRYPTED = 0x100
_INSUFFICIENT_DUMP_FILE = 0x4
_LIVE_DUMP = 0x10
_FILTERED_DUMP = 0x40

_INCOMPLETE = "the system had too little room for the dump: it is incomplete"

MAKE_KERNEL_DUMP = "take a kernel or automatic memory dump (CrashControl\\CrashDumpEnabled 2 or 7)"

DUMP_SIGNATURES = (b"PAGEDU64", b"PAGEDUMP")
DUMP_SUFFIXES = (".dmp", ".mdmp", ".hdmp")
"""How files are named that should be dumps: one that does not begin like a dump is damaged, and is told."""

"""How kernel dumps begin: 64-bit and 32-bit."""

_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class DumpHeader:
    """What a dump's header says. None: the field was never set (it still holds the filler ``PAGE``) or is absurd.

    ``machine`` is the kernel's architecture; ``pae_enabled``: its page tables have PAE's form (x86 only). Addresses
    are as wide as the machine's. ``directory_table_base`` is 0 only in a small memory dump, which has no pages.
    ``runs`` are ``(first page number, pages)`` of the physical memory block: at most as many as the header can hold,
    also where ``run_count`` says more. ``minidump_fields``: the parts that a small memory dump has.
    """

    format: HeaderFormat
    machine: Machine
    pae_enabled: bool
    dump_type: int
    directory_table_base: int
    build: Optional[int]
    processors: Optional[int]
    bugcheck: Optional[BugCheck]
    taken_at: Optional[datetime]
    uptime_seconds: Optional[float]
    attributes: int
    minidump_fields: int
    debugger_data_block: Optional[int]
    loaded_module_list: Optional[int]
    active_process_head: Optional[int]
    run_count: Optional[int]
    page_count: Optional[int]
    runs: Tuple[Tuple[int, int], ...]

    @property
    def data_offset(self) -> int:
        """File offset of what follows the header: 1000h in a 32-bit dump, 2000h in a 64-bit one."""
        return self.format.size_bytes

    @property
    def is_incomplete(self) -> bool:
        """The kernel itself noted that the dump file had too little room."""
        return bool(self.attributes & _INSUFFICIENT_DUMP_FILE)

    @property
    def facts(self) -> KernelFacts:
        """What the header says of kernel and system."""
        return KernelFacts(
            kind=self.kind,
            machine=self.machine,
            directory_table_base=self.directory_table_base,
            pae_enabled=self.pae_enabled,
            build=self.build,
            processors=self.processors,
            bugcheck=self.bugcheck,
            taken_at=self.taken_at,
            uptime_seconds=self.uptime_seconds,
            debugger_data_block=self.debugger_data_block,
            loaded_module_list=self.loaded_module_list,
            active_process_head=self.active_process_head,
            is_live=self.is_live,
            left_out=self.left_out,
            warnings=(_INCOMPLETE,) if self.is_incomplete else (),
        )

    @property
    def is_live(self) -> bool:
        """It was taken while the system ran: by Task Manager, livekd, or Windows itself."""
        return bool(self.attributes & _LIVE_DUMP)

    @property
    def left_out(self) -> str:
        """What dumps of this kind lack by design (WDK documentation, "Varieties of Kernel-Mode Dump Files")."""
        parts = list(_LEFT_OUT.get(self.dump_type, ()))
        if self.attributes & _FILTERED_DUMP:
            parts += [part for part in ("free pages", "pages of virtual machines") if part not in parts]
        return ", ".join(parts)

    @property
    def kind(self) -> str:
        """The kind of dump in words, e.g. ``kernel bitmap dump (type 6)``."""
        traits = [f"type {self.dump_type}"]
        if self.is_live:
            traits.append("taken live")
        if self.attributes & _FILTERED_DUMP:
            traits.append("active memory only")
        return f"{_KINDS[self.dump_type]} ({', '.join(traits)})"


def parse_header(file: FileBytes) -> DumpHeader:
    """The header of a kernel dump of x86, x64 or ARM64.

    NotKernelTargetError for a dump of a user-mode process, UnsupportedDumpError for a kernel dump of a kind
    that is not read, DumpFormatError for what is no dump or is damaged.
    """
    return parse_header_bytes(file.path, file.read_at(0, HEADER64.size_bytes))


def parse_header_bytes(path: str, data: bytes) -> DumpHeader:
    """``parse_header`` for a header that stands anywhere: ``path`` is for messages."""
    form = _recognise(path, data)
    if len(data) < form.size_bytes:
        raise DumpFormatError(
            path, 0, f"a file of {count_things(len(data), 'byte')}", f"a header of {form.size_bytes}", "it is cut short"
        )
    fields = form.declaration.parse(data)
    attributes = fields.Attributes or 0
    _refuse_unread(path, form, fields.DumpType, fields.MachineImageType, attributes)
    if not fields.DirectoryTableBase and fields.DumpType != TRIAGE_DUMP:
        raise DumpFormatError(
            path,
            0x10,
            "no DirectoryTableBase",
            "the physical address of the kernel's page tables",
            "the tool that wrote the dump did not finish its header",
        )
    block = fields.PhysicalMemoryBlock
    stored_runs = min(block.NumberOfRuns or 0, form.max_runs)
    return DumpHeader(
        format=form,
        machine=form.machines[fields.MachineImageType],
        pae_enabled=fields.get("PaeEnabled") == 1,  # any other value is the filler
        dump_type=fields.DumpType,
        directory_table_base=fields.DirectoryTableBase or 0,
        build=fields.MinorVersion,
        processors=fields.NumberProcessors if 0 < (fields.NumberProcessors or 0) <= MAX_PROCESSORS else None,
        bugcheck=_bugcheck(fields.BugCheckCode, tuple(fields.BugCheckParameter)),
        taken_at=_moment(fields.SystemTime),
        uptime_seconds=_duration_seconds(fields.SystemUpTime),
        attributes=attributes,
        minidump_fields=fields.MiniDumpFields or 0,
        debugger_data_block=fields.KdDebuggerDataBlock or None,
        loaded_module_list=fields.PsLoadedModuleList or None,
        active_process_head=fields.PsActiveProcessHead or None,
        run_count=block.NumberOfRuns,
        page_count=block.NumberOfPages,
        runs=tuple((run.BasePage, run.PageCount) for run in block.Run[:stored_runs]),
    )


def _recognise(path: str, data: bytes) -> HeaderFormat:
    """The form of the header that ``data`` begins with; raises for whatever is no kernel dump."""
    expected = "a kernel dump (PAGEDU64 or PAGEDUMP)"
    for signature, form in zip(DUMP_SIGNATURES, (HEADER64, HEADER32)):
        if data.startswith(signature):
            return form
    if not data:
        raise DumpFormatError(path, 0, "an empty file", expected, "the copy failed, or the disk was full")
    if data.startswith(b"MDMP"):
        raise NotKernelTargetError(
            f"{path}: at 0x0: found the dump of a user-mode process (MDMP), expected {expected}. "
            f"Hint: a process has no kernel pool; {MAKE_KERNEL_DUMP}"
        )
    foreign = recognise_foreign(data)
    if foreign is not None:
        raise DumpFormatError(path, 0, foreign.found, expected, foreign.hint)
    if not data.strip(b"\0"):
        raise DumpFormatError(path, 0, "zeros", expected, "the dump was allocated, but never written")
    raise DumpFormatError(path, 0, f"signature {data[:8]!r}", expected)


def _refuse_unread(
    path: str, form: HeaderFormat, dump_type: Optional[int], machine: Optional[int], attributes: int
) -> None:
    """Raise for a kernel dump of a kind that is not read."""
    if dump_type == _HEADER_ONLY_DUMP:
        found = "a header-only dump (type 3): it holds no memory"
        raise UnsupportedDumpError(path, form.dump_type_offset, found, "a dump with memory", MAKE_KERNEL_DUMP)
    if dump_type not in _KINDS:
        found = "no DumpType" if dump_type is None else f"DumpType 0x{dump_type:x}"
        raise DumpFormatError(path, form.dump_type_offset, found, f"one of {', '.join(map(str, _KINDS))}")
    if machine not in form.machines:
        found = "no machine type" if machine is None else f"machine type 0x{machine:x}"
        if machine in _MACHINE_NAMES:
            found = f"a dump of {_MACHINE_NAMES[machine]}"
        known = " or ".join(f"{known.value} (0x{number:x})" for number, known in form.machines.items())
        raise UnsupportedDumpError(path, form.machine_offset, found, f"a {form.bits}-bit dump of {known}")
    if attributes & _ENCRYPTED:
        raise UnsupportedDumpError(
            path, form.attributes_offset, "an encrypted dump", "a plain one", "decrypt it with its machine's key first"
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
