"""A pykd without Windows: the semantics of pykd 0.3.4.15 as they were measured, over the memory of a forged machine.

``FakePykd`` stands where the module ``pykd`` stands: ``install(monkeypatch)`` makes ``import pykd`` give it. It counts
what is asked of it, and can be told to fail: see ``break_at_call``, ``run_at_call``, ``hide``.
"""

from __future__ import annotations

import re
import struct
import sys
import threading
from collections import Counter
from pathlib import PureWindowsPath
from types import SimpleNamespace

from pykdext.errors import TargetError
from tests.helpers.fakepykd_console import FakeConsole

PAGE = 0x1000
DUMP_PATH = r"C:\dumps\MEMORY.DMP"
SYSTEMS = {
    "bitmap": "64-bit Kernel bitmap dump: {dump_path}",
    "triage": "64-bit Kernel triage dump: {dump_path}",
    "remote": "Remote KD: KdSrv:Server=@{<Local>},Trans=@{NET:Port=50000,Key=1.2.3.4,Target}",
    "exdi": "eXDI KD",
    "local": "Local KD",
    "strange": "Quantum KD",
    "process": "Live user mode: <Local>",
    "process dump": "64-bit User mini dump: {dump_path}",
    "none": "",
}
DUMPS = ("bitmap", "triage", "process dump")
USER_MODE = ("process", "process dump")
VALIDITY = re.compile(r"\? ?@@masm\(\$vvalid\((0x[0-9a-f]+),(0x[0-9a-f]+)\)\)(?:;|$)")
ARCHITECTURES = {"x64": "x64", "x86": "x86 compatible", "arm64": "ARM 64-bit (AArch64)"}


class DbgException(Exception):
    pass


class MemoryException(DbgException):
    pass


class SymbolException(DbgException):
    pass


class TypeException(SymbolException):
    pass


class FakeModule:
    """One of pykd's modules, under the engine's name and image name."""

    def __init__(self, owner, file_name, base, size, timestamp=0, checksum=0, *, path="", unloaded=False):
        self._owner = owner
        self._base, self._size, self._timestamp, self._checksum = base, size, timestamp, checksum
        self._unloaded = unloaded
        self._name = re.sub(r"\W", "_", PureWindowsPath(file_name).stem)
        self._image = path or file_name
        if file_name.lower() == "ntoskrnl.exe":
            self._name, self._image = "nt", "ntkrnlmp.exe"
        elif file_name.lower() == "hal.dll":
            self._image = "hal.exe"  # so the real engine calls the forge's

    def name(self):
        return self._name

    def image(self):
        return self._image

    def begin(self):
        return self._owner.addr64(self._base)

    def end(self):
        return self.begin() + self._size

    def size(self):
        return self._size

    def timestamp(self):
        return self._timestamp

    def checksum(self):
        return self._checksum

    def unloaded(self):
        return self._unloaded

    def symfile(self):
        return ""

    def offset(self, symbol):
        return self._owner.getOffset(f"{self._name}!{symbol}")

    def rva(self, symbol):
        return self.offset(symbol) - self.begin()


class FakeType:
    """One of pykd's types.

    ``fields`` of a structure: {name: (offset, size)}, or {name: (offset, FakeType)}; offset None: a member without a
    place. ``bits``: first bit and how many. ``elements``: of an array its elements' type and their number.
    """

    def __init__(self, size, fields=(), bits=None, elements=None):
        self._size, self._fields, self._bits, self._elements = size, dict(fields), bits, elements

    def size(self):
        return self._size

    def fieldOffset(self, name):
        offset = self._fields.get(name, (None, 0))[0]
        if offset is None:
            raise TypeException(f"type has no field {name}")
        return offset

    def fields(self):
        return [
            (name, inner if isinstance(inner, FakeType) else FakeType(inner))
            for name, (_, inner) in self._fields.items()
        ]

    def isArray(self):
        return self._elements is not None

    def isBitField(self):
        return self._bits is not None

    def isUserDefined(self):
        return bool(self._fields)

    def bitOffset(self):
        return self._bits[0]

    def bitWidth(self):
        return self._bits[1]

    def getNumberFields(self):
        return self._elements[1] if self._elements else len(self._fields)

    def field(self, index):
        return self._elements[0] if self._elements else self.fields()[index][1]


class FakePykd:
    """The module pykd of one session.

    Attributes for tests:
        calls, call_count, last_read_call: calls by function, of all together, and until the last read that succeeded.
        reads, failures: ``(address, size)`` of every read that succeeded, and of those that did not.
        commands: what was given to dbgCommand. console: what WinDbg shows.
        modules: what getModulesList gives; an exception is raised.
        symbols, types: by name without ``nt!``. debugger_data: the address of KdDebuggerDataBlock in a dump.
        functions: names with their module by (address, end), for ``ln``.
        answers: what dbgCommand prints, by command; None for nothing, an exception is raised.
        validity_answer: the same for all questions whether memory is there; ...: the truth.
        break_at_call: the call, counted from 1, that Ctrl-Break ends.
        run_at_call: the call from which on the target runs and cannot be read.
    """

    DbgException = DbgException
    MemoryException = MemoryException
    SymbolException = SymbolException
    TypeException = TypeException

    def __init__(
        self,
        read,
        *,
        system="bitmap",
        machine="x64",
        windbg=True,
        build=19041,
        processors=2,
        bugcheck=(0, 0, 0, 0, 0),
        time=0,
        uptime=0,
        unloaded=(),
        dump_path=DUMP_PATH,
    ):
        self._read_target = read
        self.dump_path = dump_path
        self.system, self.machine, self.windbg = system, machine, windbg
        self.build, self.processors, self.bugcheck, self.time, self.uptime = build, processors, bugcheck, time, uptime
        self.modules = []
        self.unloaded = list(unloaded)
        self.symbols, self.types, self.answers, self.functions = {}, {}, {}, {}
        self.validity_answer = ...
        self.debugger_data = 0
        self.break_at_call = self.run_at_call = None
        self.calls, self.call_count, self.last_read_call = Counter(), 0, 0
        self.reads, self.failures, self.commands = [], [], []
        self.console = FakeConsole()
        self._hidden = set()
        self._stopped, self.ran, self.stops_by_itself = threading.Event(), 0, False

    @classmethod
    def of_machine(cls, machine, *, system="bitmap", symbols=True, **options):
        """The session over a forged machine. ``symbols``: whether the engine has those of nt."""
        truth = machine.truth
        is_dump = system in DUMPS

        def read(address, size):
            for page in range(address & -PAGE, address + size, PAGE) if is_dump else ():
                if (machine.space.translate(page) or 0) >> 12 in machine.memory.omitted:
                    raise ValueError(f"0x{page:x} was left out of the dump")
            return machine.read_virtual(address, size)

        fake = cls(
            read,
            system=system,
            machine=truth.machine,
            build=truth.build,
            processors=truth.processors,
            bugcheck=truth.bugcheck if is_dump else (0, 0, 0, 0, 0),
            time=int(truth.taken_at.timestamp()),
            uptime=int(truth.uptime_seconds),
            unloaded=reversed(truth.unloaded),
            **options,
        )
        for name, base, size, timestamp in truth.modules:
            fake.modules.append(FakeModule(fake, name, base, size, timestamp, path=machine.module_paths[name]))
        fake.debugger_data = machine.addresses["KDBG"]
        if symbols:
            nt = machine.addresses["nt"]
            fake.symbols = {name: nt + rva for name, rva in machine.kernel.variables.items()}
        return fake

    @classmethod
    def of_target(cls, target, **options):
        """The session over a target of this project, a dump for example."""
        modules = target.modules()
        unloaded = [(module.name, module.base, module.base + module.size) for module in modules if module.unloaded]
        facts = target.facts
        fake = cls(
            target.read_virtual,
            machine=target.machine.value,
            build=facts.build or 0,
            processors=facts.processors or 1,
            bugcheck=(facts.bugcheck.code, *facts.bugcheck.parameters) if facts.bugcheck else (0, 0, 0, 0, 0),
            time=int(facts.taken_at.timestamp()) if facts.taken_at else 0,
            uptime=int(facts.uptime_seconds or 0),
            unloaded=unloaded,
            **options,
        )
        fake.modules = [
            FakeModule(fake, module.name, module.base, module.size, module.timestamp or 0, path=module.path)
            for module in modules
            if not module.unloaded
        ]
        return fake

    def install(self, monkeypatch):
        """Make ``import pykd`` give this object."""
        monkeypatch.setitem(sys.modules, "pykd", self)
        return self

    def hide(self, address, size):
        """Make pages unreadable."""
        self._hidden.update(range(address // PAGE, -(-(address + size) // PAGE)))

    @property
    def bytes_read(self):
        """Bytes of all reads together."""
        return sum(size for _, size in self.reads)

    def repeated_bytes(self):
        """How many bytes were read more than once: each further time counts."""
        reached = repeated = 0
        for address, size in sorted(self.reads):
            repeated += max(0, min(reached, address + size) - address)
            reached = max(reached, address + size)
        return repeated

    def reads_of(self, address, size):
        """Bytes of [address, address + size) that were read, each time counted."""
        ends = ((max(address, start), min(address + size, start + length)) for start, length in self.reads)
        return sum(max(0, end - start) for start, end in ends)

    def _count(self, function):
        self.calls[function] += 1
        self.call_count += 1
        if self.call_count == self.break_at_call:
            raise SystemExit("CTRL+BREAK")

    # The session

    def isWindbgExt(self):
        self._count("isWindbgExt")
        return self.windbg

    def isKernelDebugging(self):
        self._count("isKernelDebugging")
        self._demand_session()
        return self.system not in USER_MODE

    def isDumpAnalyzing(self):
        self._count("isDumpAnalyzing")
        self._demand_session()
        return self.system in DUMPS

    def isLocalKernelDebuggerEnabled(self):
        """Of the machine that the debugger runs on: it says nothing about the session."""
        self._count("isLocalKernelDebuggerEnabled")
        return self.system != "local"

    def bugCheckData(self):
        self._count("bugCheckData")
        self._demand_session()
        return tuple(self.bugcheck)

    def ptrSize(self):
        self._count("ptrSize")
        return 4 if self.machine == "x86" else 8

    def pageSize(self):
        self._count("pageSize")
        return PAGE

    def is64bitSystem(self):
        self._count("is64bitSystem")
        return self.machine == "x64"

    def getSystemVersion(self):
        self._count("getSystemVersion")
        return SimpleNamespace(
            win32Major=10, win32Minor=0, buildNumber=self.build, buildString=f"{self.build}.1", servicePack=0
        )

    def systemUptime(self):
        self._count("systemUptime")
        return self.uptime

    def currentTime(self):
        self._count("currentTime")
        return self.time

    # Running the target: go() returns when the target stops, breakin() stops it from another thread

    def go(self):
        self._count("go")
        if self.system in DUMPS or self.system == "local":
            raise DbgException("IDebugControl::SetExecutionStatus failed with HRESULT 0x80004005")
        self.ran += 1
        self._stopped.clear()
        if self.stops_by_itself:
            return
        if not self._stopped.wait(timeout=30):
            raise AssertionError("nobody broke into the target")
        self.time += 1

    def breakin(self):
        self._stopped.set()

    def _demand_session(self):
        if self.system == "none":
            raise DbgException("IDebugControl::GetDebuggeeType failed with HRESULT 0x8000ffff")

    # Memory

    def addr64(self, offset):
        """The engine's addresses of 32-bit targets have their sign extended."""
        if self.machine == "x86" and offset >> 32 == 0 and offset & 0x80000000:
            return offset | 0xFFFFFFFF00000000
        return offset

    def loadBytes(self, offset, count, phyAddr=False):
        return list(self._read("loadBytes", offset, count))

    def loadWords(self, offset, count, phyAddr=False):
        return self._load("loadWords", "H", offset, count)

    def loadDWords(self, offset, count, phyAddr=False):
        return self._load("loadDWords", "I", offset, count)

    def loadQWords(self, offset, count, phyAddr=False):
        return self._load("loadQWords", "Q", offset, count)

    def loadPtrs(self, offset, count):
        return self._load("loadPtrs", self._pointer_code, offset, count)

    def loadWChars(self, offset, count, phyAddr=False):
        return self._read("loadWChars", offset, 2 * count).decode("utf-16-le", "surrogatepass")

    def loadChars(self, offset, count, phyAddr=False):
        return self._read("loadChars", offset, count).decode("utf-8")

    def ptrByte(self, offset):
        return self._load("ptrByte", "B", offset, 1)[0]

    def ptrWord(self, offset):
        return self._load("ptrWord", "H", offset, 1)[0]

    def ptrDWord(self, offset):
        return self._load("ptrDWord", "I", offset, 1)[0]

    def ptrQWord(self, offset):
        return self._load("ptrQWord", "Q", offset, 1)[0]

    def ptrPtr(self, offset):
        return self.addr64(self._load("ptrPtr", self._pointer_code, offset, 1)[0])

    def isVaRegionValid(self, offset, length):
        self._count("isVaRegionValid")
        return self._peek(offset, length) is not None

    def isValid(self, offset):
        return self.isVaRegionValid(offset, 1)

    @property
    def _pointer_code(self):
        return "I" if self.machine == "x86" else "Q"

    def _load(self, function, code, offset, count):
        return list(struct.unpack(f"<{count}{code}", self._read(function, offset, count * struct.calcsize(code))))

    def _read(self, function, offset, size):
        if not 0 <= offset < 1 << 64 or not 0 <= size < 1 << 32:
            raise OverflowError("Python int too large to convert to C unsigned long long")
        self._count(function)
        if self.run_at_call is not None and self.call_count >= self.run_at_call:
            raise DbgException("IDebugDataSpaces::ReadVirtual failed with HRESULT 0x80004002\nthe debuggee runs")
        data = self._peek(offset, size)
        if data is None:
            self.failures.append((offset, size))
            self._mourn_pages(offset, size)
            raise MemoryException(f"Memory exception at 0x{offset:x} target virtual address")
        self.reads.append((offset, size))
        self.last_read_call = self.call_count
        return data

    def _mourn_pages(self, offset, size):
        """The engine tells the user of each page of a dump that a read did not find."""
        for page in range(offset & -PAGE, offset + size, PAGE) if self.system in DUMPS else ():
            if self._peek(page, PAGE) is None:
                frame = page // PAGE & 0xFFFFF
                self.console.write(f'Page {frame:x} not present in the dump file. Type ".hh dbgerr004" for details\n')

    def _peek(self, offset, size):
        """All of the range, or None."""
        if self.machine == "x86":
            if self.addr64(offset) >> 32 not in (0, 0xFFFFFFFF):
                return None
            offset &= 0xFFFFFFFF
        if size == 0 or not self._hidden.isdisjoint(range(offset // PAGE, -(-(offset + size) // PAGE))):
            return None
        try:
            return bytes(self._read_target(offset, size))
        except (ValueError, TargetError):
            return None

    # Modules and symbols

    def getModulesList(self):
        self._count("getModulesList")
        if isinstance(self.modules, Exception):
            raise self.modules
        return list(self.modules)

    def module(self, key):
        self._count("module")
        for module in self.modules:
            if key == module.name() or (isinstance(key, int) and module.begin() <= self.addr64(key) < module.end()):
                return module
        raise DbgException(f"failed to find module {key}")

    def getOffset(self, name):
        self._count("getOffset")
        if name.partition("!")[2] not in self.symbols:
            raise SymbolException(f"failed to find symbol {name}")
        return self.addr64(self.symbols[name.partition("!")[2]])

    def typeInfo(self, name):
        self._count("typeInfo")
        if name.partition("!")[2] not in self.types:
            raise SymbolException(f"{name} - symbol not found")
        return self.types[name.partition("!")[2]]

    # Commands and output

    def dbgCommand(self, command, suppressOutput=True):
        self._count("dbgCommand")
        self.commands.append(command)
        answer = self.answers[command] if command in self.answers else self._answer(command)
        if isinstance(answer, Exception):
            raise answer
        if not suppressOutput:
            self.dprint(answer or "")
            return None
        return answer or None

    def _answer(self, command):
        if VALIDITY.match(command) and self.validity_answer is not ...:
            return self.validity_answer
        if VALIDITY.match(command):
            return "".join(
                "Evaluate expression: {0} = 00000000`{0:08x}\n".format(
                    int(self._peek(int(address, 16), int(size, 16)) is not None)
                )
                for address, size in VALIDITY.findall(command)
            )
        if command == "||.":
            return f".  0 {self.system_words}\n"
        if command == "vertarget":
            return self.target_words
        if command == "lm":
            return self.module_words
        if command == ".dumpdebug" and self.system in DUMPS:
            return (
                f"DUMP_HEADER64:\nKdDebuggerDataBlock {self._words(self.debugger_data)}\nSuiteMask           00000110\n"
            )
        if re.fullmatch(r"ln 0x[0-9a-f]+", command):
            return self._nearest_words(int(command[3:], 16))
        return DbgException("IDebugControl::Execute failed with HRESULT 0x80040205")

    def _nearest_words(self, address):
        """The function next before an address; the distance to one that has ended is printed as -1."""
        for (start, end), name in sorted(self.functions.items(), reverse=True):
            if start <= address:
                distance = address - start if address < end else 0xFFFFFFFF_FFFFFFFF
                high, low = f"{distance >> 32:x}`" if distance >> 32 else "", f"{distance & 0xFFFFFFFF:x}"
                behind = f"+0x{high}{low}" if distance else ""
                exact = "" if distance else f"Exact matches:\n    {name} (void)\n"
                return f"({self._words(start)})   {name}{behind}   |  ({self._words(end)})   {name}Next\n{exact}"
        return ""

    @property
    def system_words(self):
        return SYSTEMS[self.system].replace("{dump_path}", str(self.dump_path))

    @property
    def target_words(self):
        count = f"MP ({self.processors} procs)" if self.processors > 1 else "UP"
        kernel = "" if self.system in USER_MODE else "Kernel "
        return (
            f"Windows 10 {kernel}Version {self.build} {count} Free {ARCHITECTURES[self.machine]}\n"
            "Product: Server, suite: TerminalServer SingleUserTS\nMachine Name:\n"
        )

    @property
    def module_words(self):
        lines = ["start             end                 module name"]
        loaded = [] if isinstance(self.modules, Exception) else self.modules
        lines += [
            f"{self._words(module.begin())} {self._words(module.end())}   {module.name():<10} (deferred)             "
            for module in loaded
            if not module.unloaded()
        ]
        lines += ["", "Unloaded modules:"] if self.unloaded else []
        lines += [f"{self._words(start)} {self._words(end)}   {name}" for name, start, end in self.unloaded]
        return "\n".join(lines) + "\n"

    def _words(self, address):
        low = f"{address & 0xFFFFFFFF:08x}"
        return low if self.machine == "x86" else f"{address >> 32:08x}`{low}"

    def dprint(self, text, dml=False):
        self._count("dprint")
        if not self.windbg:
            sys.stdout.write(text)
        elif dml:
            self.console.writedml(text)
        else:
            self.console.write(text)

    def dprintln(self, text, dml=False):
        self.dprint(f"{text}\n", dml)
