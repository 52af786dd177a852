"""What objects keep of those who made them: a file its name and driver, a key its path and opener, a token its source.

Members as in the public symbols of nt (JPCERTCC/Windows-Symbol-Tables, volatility); marks of FILE_OBJECT, DEVICE_OBJECT
and DRIVER_OBJECT from wdm.h, that of a key's body from ReactOS.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Machine, Module, Struct
from pykdext.model.structtables import StructTable

_LOGON_ID = 0x18
_SERVICE_LOGONS = {0x3E7: "SYSTEM", 0x3E4: "NETWORK SERVICE", 0x3E5: "LOCAL SERVICE", 0x3E6: "ANONYMOUS LOGON"}
_FILE_TYPE, _DEVICE_TYPE, _DRIVER_TYPE = 5, 3, 4
_KEY_MARK = 0x6B793032
_FIRST_WITH_PLAIN_SECTIONS = 14393
_ALIKE = frozenset(("_CM_KEY_BODY", "_CM_KEY_CONTROL_BLOCK", "_CM_NAME_CONTROL_BLOCK"))
_REGISTRY = "REGISTRY"
_MAX_NAME_BYTES = 0x400
_MAX_KEY_DEPTH = 64
_MAX_KEY_PART = 512
_SHOWN_LETTERS = 120
_REGISTRATION_BYTES = 0x70
_KERNEL_REGISTRATION, _USER_REGISTRATION = 1, 2


class ContentsReader:
    """Reads bodies of objects of one kernel; ``accounts`` are the people that descriptions of tokens named."""

    def __init__(self, kernel: Kernel, pages: PageReader) -> None:
        self._kernel = kernel
        self._pages = pages
        self._width = kernel.target.pointer_size
        self._modules = [module for module in kernel.target.modules() if not module.unloaded]
        self._borrows = kernel.target.machine is Machine.ARM64
        self._forms: Dict[str, Optional[Struct]] = {}
        self._drivers: Dict[int, Optional[str]] = {}
        self._keys: Dict[int, Optional[str]] = {}
        self.accounts: Set[str] = set()
        self._describers: Dict[str, Callable[[int], Optional[str]]] = {
            "File": self._describe_folder,
            "Key": self._describe_key,
            "Token": self._describe_token,
            "Thread": self._describe_thread,
            "EtwRegistration": self._describe_registration,
            "ALPC Port": self._describe_port,
            "Section": self._describe_section,
        }

    def describe(self, type_name: str, body: int) -> Optional[str]:
        """In a few words who made an object of a type, or what it is of; None: its fields do not tell."""
        describer = self._describers.get(type_name)
        return None if describer is None else describer(body)

    def target_name(self, type_name: str, body: int) -> Optional[str]:
        """The name of a key, or of a file with its driver; None: of neither kind, or not in memory."""
        if type_name == "Key":
            block = self._field(body, "_CM_KEY_BODY", "KeyControlBlock")
            return self._key_path(block) if block and self._is_key(body) else None
        return self._describe_file(body) if type_name == "File" else None

    def find_module(self, address: int) -> Optional[Module]:
        """The loaded image that an address lies in."""
        return next((module for module in self._modules if address in module), None)

    def _describe_file(self, body: int) -> Optional[str]:
        return _join_file(*self._read_file(body))

    def _describe_folder(self, body: int) -> Optional[str]:
        """The folder of a file, for there may be many files in it: of names without one the whole name."""
        name, driver = self._read_file(body)
        return _join_file((name.rpartition("\\")[0] or name) if name else None, driver)

    def _read_file(self, body: int) -> Tuple[Optional[str], Optional[str]]:
        """The name of a file object, and the driver of its device; None: no file, or not in memory."""
        if self._pages.number(body, 2) != _FILE_TYPE:
            return None, None
        device = self._field(body, "_FILE_OBJECT", "DeviceObject")
        name_at = self._offset("_FILE_OBJECT", "FileName")
        name = None if name_at is None else self._string(body + name_at)
        return name, self.driver_of(device) if device else None

    def driver_of(self, device: int) -> Optional[str]:
        """The module of the driver that a device object belongs to; None: no device, or not in memory."""
        if device not in self._drivers:
            self._drivers[device] = self._read_driver(device)
        return self._drivers[device]

    def _read_driver(self, device: int) -> Optional[str]:
        if self._pages.number(device, 2) != _DEVICE_TYPE:
            return None
        driver = self._pages.pointer(device + 8)
        if not driver or self._pages.number(driver, 2) != _DRIVER_TYPE:
            return None
        start = self._pages.pointer(driver + (0xC if self._width == 4 else 0x18))
        module = self.find_module(start) if start else None
        return None if module is None else module.name

    def _is_key(self, body: int) -> bool:
        return self._pages.number(body, 4) == _KEY_MARK

    def _describe_key(self, body: int) -> Optional[str]:
        """The opener of a key, whose number stays even when the handle is closed."""
        if not self._is_key(body):
            return None
        opener = self._field(body, "_CM_KEY_BODY", "ProcessID")
        return f"opened by pid {opener}" if opener else None

    def _key_path(self, block: int) -> Optional[str]:
        if block not in self._keys:
            self._keys[block] = self._read_key_path(block)
        return self._keys[block]

    def _read_key_path(self, block: int) -> Optional[str]:
        parts: List[str] = []
        seen = set()
        while block and block not in seen and len(parts) < _MAX_KEY_DEPTH:
            seen.add(block)
            name = self._key_part(self._field(block, "_CM_KEY_CONTROL_BLOCK", "NameBlock"))
            if name is None:
                break
            parts.append(name)
            block = self._field(block, "_CM_KEY_CONTROL_BLOCK", "ParentKcb") or 0
        if not parts or (self._borrows and (block or parts[-1] != _REGISTRY)):
            return None
        whole = "\\".join(reversed(parts))
        return whole if block else "\\" + whole

    def _key_part(self, block: Optional[int]) -> Optional[str]:
        """One name of a path: in single bytes where it is compressed."""
        size = self._field(block, "_CM_NAME_CONTROL_BLOCK", "NameLength") if block else None
        start = self._offset("_CM_NAME_CONTROL_BLOCK", "Name")
        if block is None or start is None or not size or size > _MAX_KEY_PART:
            return None
        compressed = (self._pages.number(block, 4) or 0) & 1
        try:
            data = self._pages.read(block + start, size)
        except MemoryReadError:
            return None
        return _printable(data.decode("latin-1" if compressed else "utf-16-le", "replace"))

    def _describe_token(self, body: int) -> Optional[str]:
        try:
            source = self._pages.read(body, 8)
        except MemoryReadError:
            return None
        name = source.split(b"\0", 1)[0].decode("latin-1").strip()
        if not name or not name.isascii() or not name.isprintable():
            return None
        logon = self._pages.number(body + _LOGON_ID, 8)
        if not logon:
            return name
        return f"{name}, {_SERVICE_LOGONS.get(logon) or self._account_of(body, logon) or f'logon 0x{logon:x}'}"

    def _account_of(self, token: int, logon: int) -> Optional[str]:
        r"""``CORP\alice``: the account of a token's logon session; None: not in memory, or not known of this kernel."""
        session = self._field(token, "_TOKEN", "LogonSession")
        if not session or self._pages.number(session + self._width, 8) != logon:
            return None
        places = (self._offset("_SEP_LOGON_SESSION_REFERENCES", name) for name in ("AuthorityName", "AccountName"))
        names = [self._string(session + place) for place in places if place is not None]
        account = "\\".join(name for name in names if name)
        if not account:
            return None
        self.accounts.add(account)
        return account

    def _describe_section(self, body: int) -> Optional[str]:
        """The file that a section maps; what is read is believed where the pointers agree with each other.

        A section leads to its control area, before 14393 by way of the segment; these two point at each other.
        """
        narrow = self._width == 4
        first = self._pages.pointer(body + (0x14 if narrow else 0x28))
        if not first:
            return None
        areas = [first & ~3]
        if (self._kernel.target.facts.build or _FIRST_WITH_PLAIN_SECTIONS) < _FIRST_WITH_PLAIN_SECTIONS:
            found = (self._pages.pointer(first + offset) for offset in (0, 0x18 if narrow else 0x20))
            areas = [area for area in found if area and self._pages.pointer(area) == first]
        for area in areas:
            segment, file = self._pages.pointer(area), self._pages.pointer(area + (0x24 if narrow else 0x40))
            if not segment or file is None or self._pages.pointer(segment) not in (area, first):
                continue
            if not file:
                return "maps memory without a file"
            described = self._describe_file(file & ~(2 * self._width - 1))
            return None if described is None else f"maps {described}"
        return None

    def _describe_thread(self, body: int) -> Optional[str]:
        start = self._field(body, "_ETHREAD", "StartAddress")
        module = self.find_module(start) if start else None
        return None if module is None or not start else f"starts at {module.name}+0x{start - module.base:x}"

    def _describe_registration(self, body: int) -> Optional[str]:
        """The driver that registered, by the place that called, or the process."""
        flags = self._field(body, "_ETW_REG_ENTRY", "Flags")
        if flags is None:
            return None
        if flags & _KERNEL_REGISTRATION:
            for name in ("Caller", "Callback"):
                address = self._field(body, "_ETW_REG_ENTRY", name)
                module = self.find_module(address) if address else None
                if module is not None and address:
                    return f"registered by {module.name}+0x{address - module.base:x}"
        process = self._field(body, "_ETW_REG_ENTRY", "Process") if flags & _USER_REGISTRATION else None
        return self.describe_process(process, "registered by") if process else None

    def _describe_port(self, body: int) -> Optional[str]:
        owner = self._field(body, "_ALPC_PORT", "OwnerProcess")
        return self.describe_process(owner & ~7, "owned by") if owner else None

    def describe_process(self, address: int, verb: str) -> Optional[str]:
        """``owned by pid 2428``; None: no process, or not in memory."""
        pid = self._field(address, "_EPROCESS", "UniqueProcessId")
        return f"{verb} pid {pid}" if pid else None

    def _string(self, at: int) -> Optional[str]:
        """The letters of a UNICODE_STRING."""
        size, buffer = self._pages.number(at, 2), self._pages.pointer(at + self._width)
        if not size or not buffer or size % 2 or size > _MAX_NAME_BYTES:
            return None
        try:
            return _printable(self._pages.read(buffer, size).decode("utf-16-le", "replace"))
        except MemoryReadError:
            return None

    def _offset(self, type_name: str, field: str) -> Optional[int]:
        form = self._form(type_name, field)
        return None if form is None else form.offset(field)

    def _field(self, address: int, type_name: str, field: str) -> Optional[int]:
        """A number or pointer out of a structure; None: not in memory, or not known of this kernel."""
        form = self._form(type_name, field)
        place = None if form is None else form.fields[field]
        if place is None:
            return None
        return self._pages.number(address + place.offset, place.size or self._width)

    def _form(self, type_name: str, field: str) -> Optional[Struct]:
        """Where a field stands in this very build: of another build nothing is guessed here.

        Structures of the registry hold nothing of the processor: those of ARM64 are tried as x64 has them, and what is
        read by them is believed only if it ends where every path does.
        """
        key = f"{type_name}.{field}"
        if key not in self._forms:
            form = find_form(self._kernel, type_name, (field,), lambda form: form.has(field))
            self._forms[key] = form if form is not None and "calibration" not in form.source else None
            if self._forms[key] is None and self._borrows and type_name in _ALIKE:
                self._forms[key] = StructTable(Machine.X64, self._kernel.target.facts.build).make(type_name, field)
        return self._forms[key]


def _join_file(name: Optional[str], driver: Optional[str]) -> Optional[str]:
    return " ".join(word for word in (name, f"({driver})" if driver else None) if word) or None


def _printable(text: str) -> str:
    """A name that can be shown: without control characters, and not endless."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= _SHOWN_LETTERS else shown[: _SHOWN_LETTERS - 3] + "..."


def count_descriptions(found: List[Optional[str]]) -> Tuple[Tuple[str, int], ...]:
    """How often each description was found, most first."""
    counts: Dict[str, int] = {}
    for description in found:
        if description is not None:
            counts[description] = counts.get(description, 0) + 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
