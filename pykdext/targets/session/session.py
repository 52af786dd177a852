"""The kernel in the debugger's session as a target: WinDbg, KD, or a script that opened a session with pykd.

What pykd does was measured with its version 0.3.4.15.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple, TypeVar

from pykdext.errors import NotKernelTargetError, SymbolNotFoundError, TargetError
from pykdext.model import BugCheck, FieldLayout, Machine, Module, TargetFacts, TypeLayout
from pykdext.targets.debuggerdata import read_debugger_data
from pykdext.targets.dump.triage import NO_TAG_TABLES
from pykdext.targets.kernelformat import choose_kernel_format
from pykdext.targets.loader import ModuleList
from pykdext.targets.session.clock import run_machine, sleep_in_slices
from pykdext.targets.session.debugger import import_pykd
from pykdext.targets.session.memory import SessionMemory
from pykdext.targets.session.modules import read_modules
from pykdext.targets.session.words import (
    SessionWords,
    SystemWords,
    parse_debugger_data_address,
    parse_nearest,
    parse_session,
    parse_system,
    run_command,
)

DUMP_SESSION = "dump in the debugger"
LIVE_SESSION = "live kernel session"
LOCAL_SESSION = "local kernel session"
UNKNOWN_SESSION = "kernel session of an unknown kind"

PIECE_PAGES = 16
"""Pages of one read: pykd is fastest with 4 to 64 KiB, and what is read at once cannot be interrupted."""

CONNECTION_PIECE_PAGES = 1
"""Pages of one read over a debugger's cable, where a page may take a third of a second."""

_SYMBOL_HINT = "if nt has no symbols, type .symfix and .reload /f nt"

_Answer = TypeVar("_Answer")


def open_session() -> Session:
    """The kernel of the debugger's current session.

    TargetError where there is no debugger or no session, NotKernelTargetError where it is the session of a process.
    """
    pykd = import_pykd()
    try:
        is_kernel = bool(pykd.isKernelDebugging())
    except pykd.DbgException:
        place = "no session in the debugger" if pykd.isWindbgExt() else "no debugger around this Python"
        raise TargetError(
            f"debugger session: found {place}, expected a kernel session or a kernel dump. "
            "Hint: open a dump or attach to a kernel in WinDbg, then type !py poolleak"
        ) from None
    if not is_kernel:
        raise NotKernelTargetError(
            "debugger session: found a user-mode process or its dump, expected a kernel: a process has no kernel pool. "
            "Hint: open a kernel dump, or start windbg -kl as administrator for the kernel of this machine"
        )
    return Session(pykd)


class Session:
    """The kernel of the debugger's session: a Target.

    Memory is as of its first reading: for a later state of a live system open a new session. Variables and structures
    are those that the debugger has symbols for. Ctrl-Break ends every call as SystemExit, which is never caught here.
    """

    def __init__(self, pykd: Any) -> None:
        self._pykd = pykd
        words = parse_session(run_command(pykd, "||."))
        self._facts = _read_facts(pykd, words, parse_system(run_command(pykd, "vertarget")))
        self._dump_path = words.dump_path
        kind = self._facts.kind
        piece_pages = CONNECTION_PIECE_PAGES if kind == LIVE_SESSION else PIECE_PAGES
        self._memory = SessionMemory(pykd, self._facts.machine, piece_pages, asks_first=kind == DUMP_SESSION)
        self._modules: Optional[ModuleList] = None
        self._addresses: Dict[str, Optional[int]] = {}
        self._layouts: Dict[str, Optional[TypeLayout]] = {}
        self._inner_types: Dict[str, Any] = {}

    @property
    def machine(self) -> Machine:
        """The architecture of the kernel."""
        return self._facts.machine

    @property
    def pointer_size(self) -> int:
        """Bytes of a kernel pointer."""
        return self._facts.machine.pointer_size

    @property
    def facts(self) -> TargetFacts:
        """What the debugger says of the session. Its warnings grow by what ``modules`` and reads find wrong."""
        module_warnings = () if self._modules is None else self._modules.warnings
        return replace(self._facts, warnings=self._facts.warnings + module_warnings + self._memory.warnings)

    @property
    def dump_path(self) -> Optional[str]:
        """The file of the dump that the debugger has open, as the debugger names it; None for a live system."""
        return self._dump_path

    def let_pass(self, seconds: float) -> None:
        """Let the machine run for ``seconds``: a local kernel does so by itself, a remote one is resumed and stopped.

        TargetError for a dump, whose time stands still, and if the machine stops early. What was read stays as it was:
        open a new session to see the later state.
        """
        kind = self._facts.kind
        if kind == LOCAL_SESSION:
            sleep_in_slices(seconds)
        elif kind == LIVE_SESSION:
            if seconds > 0:
                run_machine(self._pykd, seconds)
        else:
            raise TargetError(f"recording: found a {kind}, expected a live machine: the time of a dump stands still")

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError."""
        return self._memory.read(address, size)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that the debugger can read, as ``(address, bytes)``, ascending and disjoint."""
        return self._memory.read_present(address, size)

    def modules(self) -> Tuple[Module, ...]:
        """Loaded images as the engine lists them, nt first, then the unloaded drivers that the kernel remembers."""
        if self._modules is None:
            self._modules = read_modules(self._pykd, self.machine)
        return self._modules.modules

    def symbol(self, name: str) -> int:
        """Address of a variable of nt by the debugger's symbols or a dump's debugger data, else SymbolNotFoundError."""
        if name not in self._addresses:
            address = self._ask(lambda: int(self._pykd.getOffset(f"nt!{name}")))
            self._addresses[name] = self._debugger_variables.get(name) if address is None else address
        address = self._addresses[name]
        if address is None:
            raise SymbolNotFoundError(name, _SYMBOL_HINT)
        return address & ((1 << 8 * self.pointer_size) - 1)

    def field_layout(self, type_name: str) -> TypeLayout:
        """Layout of a structure of nt by the debugger's symbols, else SymbolNotFoundError."""
        if type_name not in self._layouts:
            self._layouts[type_name] = self._ask(lambda: self._read_layout(type_name))
        layout = self._layouts[type_name]
        if layout is None:
            raise SymbolNotFoundError(type_name, _SYMBOL_HINT)
        return layout

    def find_name(self, address: int) -> Optional[Tuple[str, int]]:
        """The symbol that the debugger has next before an address, without its module, and the bytes from there."""
        return parse_nearest(run_command(self._pykd, f"ln 0x{address:x}"), address)

    @cached_property
    def _debugger_variables(self) -> Mapping[str, int]:
        """The variables that the kernel's debugger data names: the debugger tells where it is in a dump."""
        address = parse_debugger_data_address(run_command(self._pykd, ".dumpdebug"))
        if address is None:
            return {}
        kernel = choose_kernel_format(self.machine)
        data, _ = read_debugger_data(self._memory, kernel, address)
        return {} if data is None else data.variables

    def _read_layout(self, type_name: str) -> TypeLayout:
        structure = self._inner_types.get(type_name) or self._pykd.typeInfo(f"nt!{type_name}")
        fields: Dict[str, FieldLayout] = {}
        for name, field in structure.fields():
            try:
                offset = int(structure.fieldOffset(name))
            except self._pykd.TypeException:
                continue  # what has no place in the structure: static members
            fields[str(name)] = self._describe(f"{type_name}.{name}", offset, field)
        return TypeLayout(int(structure.size()), fields)

    def _describe(self, path: str, offset: int, field: Any) -> FieldLayout:
        """A field of pykd's. The structures inside go by their way from the outermost: some have no name."""
        size, count = int(field.size()), None
        if field.isArray():
            count = int(field.getNumberFields())
            field = field.field(0) if count else field
        bits = (int(field.bitOffset()), int(field.bitWidth())) if field.isBitField() else None
        if not field.isUserDefined():
            return FieldLayout(offset, size, bits, None, count)
        self._inner_types[path] = field
        return FieldLayout(offset, size, bits, path, count)

    def _ask(self, question: Callable[[], _Answer]) -> Optional[_Answer]:
        return _answer(self._pykd, question)


def _answer(pykd: Any, question: Callable[[], _Answer]) -> Optional[_Answer]:
    """What pykd answers; None where it refuses."""
    try:
        return question()
    except pykd.DbgException:
        return None


def _read_facts(pykd: Any, session: SessionWords, system: SystemWords) -> TargetFacts:
    """What pykd says of the target, and in the words of the debugger what pykd does not know."""
    machine = system.machine
    warnings: Tuple[str, ...] = ()
    if machine is None:
        machine = Machine.X86 if _answer(pykd, pykd.ptrSize) == Machine.X86.pointer_size else Machine.X64
        warnings = (f"vertarget does not tell the kind of processor in known words: taken for {machine.value}",)
    build = system.build or _answer(pykd, lambda: int(pykd.getSystemVersion().buildNumber))
    now = _answer(pykd, pykd.currentTime)
    uptime = _answer(pykd, pykd.systemUptime)
    return TargetFacts(
        kind=_name_kind(pykd, session),
        machine=machine,
        build=build or None,
        processors=system.processors,
        bugcheck=_read_bugcheck(pykd, machine),
        taken_at=datetime.fromtimestamp(now, timezone.utc) if now else None,
        uptime_seconds=float(uptime) if uptime else None,
        no_tag_tables=NO_TAG_TABLES if session.is_triage_dump else None,
        warnings=warnings,
    )


def _name_kind(pykd: Any, session: SessionWords) -> str:
    if pykd.isDumpAnalyzing():
        return DUMP_SESSION
    if session.is_local:
        return LOCAL_SESSION
    return LIVE_SESSION if session.is_connection else UNKNOWN_SESSION


def _read_bugcheck(pykd: Any, machine: Machine) -> Optional[BugCheck]:
    """The stop code and its parameters; None on a system that runs."""
    found = _answer(pykd, pykd.bugCheckData)
    if not found or not found[0]:
        return None
    mask = (1 << 8 * machine.pointer_size) - 1
    return BugCheck(int(found[0]), tuple(int(parameter) & mask for parameter in found[1:]))
