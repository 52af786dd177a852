"""Memory of VMware machines: a .vmem file with the .vmsn or .vmss that describes it, or memory inside that file."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Callable, List, NamedTuple, Optional, Tuple, TypeVar

from pykdext.errors import DumpFormatError, TargetError
from pykdext.targets.dump.archives import iter_state_files
from pykdext.targets.dump.remote import is_remote
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.cpustate import MAX_PROCESSORS, CpuState
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.memory import FileRanges, MemoryRange
from pykdext.targets.machine.signatures import OLD_VMWARE, STATE_SUFFIXES, VMWARE
from pykdext.targets.machine.vmwaretags import StateFile
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_REGIONS = 0x1000
HOLE_START = 0xC0000000
"""Below it memory stands at its place, in every machine of VMware."""

_HOLE_END = 1 << 32
MEMORY_SUFFIX = ".vmem"
_MAX_COMPANIONS = 64
_MAX_NAMES = 4
_GS = 5
_CONTROL_REGISTERS_BYTES = 72

WINDBG_HINT = "WinDbg does not open it; vmss2core -W8 (from VMware's site) makes MEMORY.DMP of .vmsn and .vmem"

_Source = TypeVar("_Source")


class Companion(NamedTuple):
    """The state file that belongs to a .vmem file, as far as it was needed."""

    path: str
    ranges: Tuple[MemoryRange, ...]
    processors: Tuple[CpuState, ...]
    warnings: Tuple[str, ...]


def find_companion(file: FileBytes, metadata_path: Optional[str], notes: List[str]) -> Optional[Companion]:
    """The state file of a memory file: the one that is named, else one beside it that fits by content, else None.

    That one beside it does not fit is added to ``notes``. DumpFormatError if the named one does not, TargetError if
    several beside it do.
    """
    if metadata_path is not None:
        companion = _read_companion(metadata_path)
        _require_fit(file, companion)
        return companion
    if is_remote(file.path) or not os.path.isfile(file.path):
        return None
    archived = [found for state in iter_state_files(file.path) if (found := _try(_parse_companion, state))]
    fitting = [found for found in archived if _fits(file, found)]
    if archived and not fitting:
        names = ", ".join(os.path.basename(found.path) for found in archived[:_MAX_NAMES])
        notes.append(f"{names} in the archive: does not describe this file's memory, and was not used")
    if fitting:
        return _choose(file, fitting)
    stem, suffix = os.path.splitext(file.path)
    for name in (stem + suffix for suffix in STATE_SUFFIXES):
        if os.path.isfile(name) and _is_state_file(name):
            named = _try(_read_companion, name)
            if named is not None and _fits(file, named):
                return named
            if suffix.lower() == MEMORY_SUFFIX:
                notes.append(f"{os.path.basename(name)} does not describe this file's memory: it was not used")
    if suffix.lower() != MEMORY_SUFFIX:
        return None
    fitting = [
        found for name in _list_states(file.path) if (found := _try(_read_companion, name)) and _fits(file, found)
    ]
    return _choose(file, fitting) if fitting else None


def _choose(file: FileBytes, fitting: List[Companion]) -> Companion:
    """The only one that fits; TargetError if there are more."""
    if len(fitting) > 1:
        names = ", ".join(os.path.basename(found.path) for found in fitting[:_MAX_NAMES])
        raise TargetError(
            f"{file.path}: found {count_things(len(fitting), 'state file')} that fit it ({names}), expected one. "
            "Hint: name the right one with --meta FILE; a wrong pair gives wrong answers"
        )
    return fitting[0]


def open_vmware_memory(file: FileBytes, companion: Companion) -> MachineImage:
    """The memory of a .vmem file, laid out as its state file says."""
    name = os.path.basename(companion.path)
    memory = FileRanges(file, companion.ranges, companion.warnings)
    return MachineImage(f"VMware memory image (with {name})", memory, companion.processors, windbg_hint=WINDBG_HINT)


def open_vmware_state(file: FileBytes, metadata_path: Optional[str] = None) -> MachineImage:
    """The memory inside a state file, or in the .vmem beside it; DumpFormatError if there is none."""
    state = StateFile(file)
    block = state.blocks.get(("Memory", (0, 0))) or state.blocks.get(("Memory", ()))
    if block is None:
        hint = "the snapshot has no memory: tick 'Snapshot the virtual machine's memory' when you take it, or suspend"
        beside = os.path.splitext(file.path)[0] + MEMORY_SUFFIX
        if state.number("regionsCount"):
            is_there = not is_remote(file.path) and os.path.isfile(beside)
            hint = f"its memory is in {os.path.basename(beside)}: " + (
                "give that file" if is_there else "fetch that, too"
            )
        raise DumpFormatError(file.path, 0, "a VMware state file without memory", "memory", hint)
    regions = _find_regions(state, block.size)
    ranges = tuple(MemoryRange(at, block.offset + offset, size) for at, offset, size in regions)
    memory = FileRanges(file, ranges, tuple(state.warnings))
    return MachineImage("VMware snapshot with memory", memory, _read_processors(state), windbg_hint=WINDBG_HINT)


def _list_states(path: str) -> List[str]:
    """The state files in the folder of a memory file, by content."""
    folder = os.path.dirname(path) or "."
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(STATE_SUFFIXES))
    return [found for name in names[:_MAX_COMPANIONS] if _is_state_file(found := os.path.join(folder, name))]


def _is_state_file(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(4) in (*VMWARE, *OLD_VMWARE)
    except OSError:
        return False


def _try(read: Callable[[_Source], Companion], source: _Source) -> Optional[Companion]:
    """The state file, or None if it cannot be read: another one may fit."""
    try:
        return read(source)
    except (TargetError, DumpFormatError):
        return None


def _read_companion(path: str) -> Companion:
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(open(path, "rb", buffering=0))
        except OSError as error:
            raise TargetError(f"{path}: cannot be opened: {error.strerror or error}") from error
        return _parse_companion(FileBytes(stream, path))


def _parse_companion(file: FileBytes) -> Companion:
    if file.read_at(0, 4) not in (*VMWARE, *OLD_VMWARE):
        found = f"signature {file.read_at(0, 8)!r}"
        raise DumpFormatError(file.path, 0, found, "a VMware state file (.vmsn or .vmss)")
    state = StateFile(file)
    if ("Memory", (0, 0)) in state.blocks:
        hint = "give this file itself as the source"
        raise DumpFormatError(file.path, 0, "a state file with its own memory", "one of a .vmem file", hint)
    return Companion(file.path, _find_regions(state, None), _read_processors(state), tuple(state.warnings))


def _find_regions(state: StateFile, held_bytes: Optional[int]) -> Tuple[MemoryRange, ...]:
    """Guest memory by regions; without any, one from 0 on of ``held_bytes`` (none if that is not known)."""
    count = min(state.number("regionsCount") or 0, MAX_REGIONS)
    regions: List[MemoryRange] = []
    for number in range(count):
        page, place, pages = (state.number(name, number) for name in ("regionPPN", "regionPageNum", "regionSize"))
        if page is None or place is None or pages is None:
            state.warnings.append(f"region {number} of {count} is not described")
            continue
        regions.append(MemoryRange(page * PAGE_BYTES, place * PAGE_BYTES, pages * PAGE_BYTES))
    if not regions and held_bytes:
        return assume_regions(held_bytes)
    return tuple(regions)


def assume_regions(size: int) -> Tuple[MemoryRange, ...]:
    """Memory of ``size`` bytes as VMware lays it out: 3 GiB from 0 on, the rest above 4 GiB."""
    low = MemoryRange(0, 0, min(size, HOLE_START))
    return (low,) if size <= HOLE_START else (low, MemoryRange(_HOLE_END, HOLE_START, size - HOLE_START))


def _fits(file: FileBytes, companion: Companion) -> bool:
    """Whether the regions make up the memory file; one without regions fits files without a hole."""
    if not companion.ranges:
        return False
    return sum(size for _, _, size in companion.ranges) == file.size


def _require_fit(file: FileBytes, companion: Companion) -> None:
    if _fits(file, companion):
        return
    told = sum(size for _, _, size in companion.ranges)
    raise DumpFormatError(
        companion.path,
        0,
        f"a state file that describes {count_things(told, 'byte')} of memory",
        f"one of {file.path} ({count_things(file.size, 'byte')})",
        "it is of another machine or snapshot",
    )


def _read_processors(state: StateFile) -> Tuple[CpuState, ...]:
    """The registers, as far as there are any."""
    count = min(state.number("cpu:numVCPUs") or state.number("numVCPUs") or 1, MAX_PROCESSORS)
    found: List[CpuState] = []
    for cpu in range(count):
        cr3, cr4 = _control_register(state, cpu, 3), _control_register(state, cpu, 4)
        if cr3:
            table = state.values.get(("IDTR", (cpu,)), b"")
            base = int.from_bytes(table[2:10], "little") if len(table) >= 10 else None
            found.append(
                CpuState(
                    cr3,
                    cr4,
                    rip=state.number("rip", cpu),
                    gs_base=state.number("S.base64", cpu, _GS),
                    idt_base=base if base is not None else state.number("IDTR", cpu, 2),
                )
            )
    return tuple(found)


def _control_register(state: StateFile, cpu: int, number: int) -> Optional[int]:
    value = state.number("CR64", cpu, number)
    if value is not None:
        return value
    block = state.values.get(("CR64", (cpu,)), b"")
    if len(block) >= _CONTROL_REGISTERS_BYTES:
        return int.from_bytes(block[8 * number : 8 * number + 8], "little")
    return state.number("CR", cpu, number)


def holds_memory(path: str) -> bool:
    """Whether a state file holds the memory itself; False for what cannot be read."""
    try:
        with open(path, "rb", buffering=0) as stream:
            state = StateFile(FileBytes(stream, path))
    except (OSError, TargetError, DumpFormatError):
        return False
    return ("Memory", (0, 0)) in state.blocks
