"""What objects keep of those who made them: a file its name and driver, a key its path and opener, a token its source.

Members as in the public symbols of nt (JPCERTCC/Windows-Symbol-Tables, volatility); FILE_OBJECT, VPB, DEVICE_OBJECT and
DRIVER_OBJECT have the marks of wdm.h, a key's body that of ReactOS.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.bodyreader import BodyReader
from pykdext.kernel.objects.headers import NAME, HeaderReader
from pykdext.kernel.objects.keypaths import KeyPathReader
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Module, Struct

_LOGON_ID = 0x18
_SERVICE_LOGONS = {0x3E7: "SYSTEM", 0x3E4: "NETWORK SERVICE", 0x3E5: "LOCAL SERVICE", 0x3E6: "ANONYMOUS LOGON"}
_FILE_TYPE, _DEVICE_TYPE, _DRIVER_TYPE, _BLOCK_TYPE = 5, 3, 4, 0xA
_KEY_MARK = 0x6B793032
_FIRST_WITH_PLAIN_SECTIONS = 14393

KEY_VERB, _REGISTRATION_VERB, _PORT_VERB, LIST_VERB = "opened by", "registered by", "owned by", "pages of"
PROCESS_VERBS = (KEY_VERB, _REGISTRATION_VERB, _PORT_VERB, LIST_VERB)
"""What descriptions begin with that end in the number of a process."""


class ContentsReader:
    """Reads bodies of objects of one kernel; ``accounts`` are the people that descriptions of tokens named."""

    def __init__(self, kernel: Kernel, pages: PageReader, headers: HeaderReader) -> None:
        self._kernel = kernel
        self._pages = pages
        self._headers = headers
        self._width = kernel.target.pointer_size
        self._bodies = BodyReader(kernel, pages)
        self._key_paths = KeyPathReader(self._bodies)
        self._drivers: Dict[int, Optional[str]] = {}
        self._device_names: Dict[int, Optional[str]] = {}
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
            block = self._key_field(body, "KeyControlBlock")
            return self._key_paths.find(block) if block else None
        return self._describe_file(body) if type_name == "File" else None

    def find_module(self, address: int) -> Optional[Module]:
        """The loaded image that an address lies in."""
        return self._bodies.find_module(address)

    def _describe_file(self, body: int) -> Optional[str]:
        r"""``HarddiskVolume2\Windows\win.ini (Ntfs.sys)``: device, name and driver, as far as they are known."""
        name, device, driver = self._read_file(body)
        return _join_file(name, device, driver)

    def _describe_folder(self, body: int) -> Optional[str]:
        """The folder of a file, for there may be many files in it: of names without one the whole name."""
        name, device, driver = self._read_file(body)
        return _join_file((name.rpartition("\\")[0] or name) if name else None, device, driver)

    def _read_file(self, body: int) -> Tuple[Optional[str], Optional[str], Optional[str]]:
        """The name of a file object, that of its device, and the driver; None: no file, or not in memory.

        The device of a file on a disk is the volume, whose parameter block leads to the file system's device.
        """
        if self._pages.number(body, 2) != _FILE_TYPE:
            return None, None, None
        device = self._bodies.own_field(body, "_FILE_OBJECT", "DeviceObject")
        block = self._bodies.own_field(body, "_FILE_OBJECT", "Vpb")
        form = self._bodies.own_form("_FILE_OBJECT", "FileName")
        name_at = None if form is None else form.offset("FileName")
        name = None if name_at is None else self._bodies.string(body + name_at)
        if not device:
            return name, None, None
        mounted = self._pages.pointer(block + 8) if block and self._pages.number(block, 2) == _BLOCK_TYPE else None
        driver = (self.driver_of(mounted) if mounted else None) or self.driver_of(device)
        return name, self._name_of(device), driver

    def _name_of(self, device: int) -> Optional[str]:
        """The name that a device object has, without its directory; None: none, or not in memory."""
        if device not in self._device_names:
            self._device_names[device] = self._read_device_name(device)
        return self._device_names[device]

    def _read_device_name(self, device: int) -> Optional[str]:
        if self._pages.number(device, 2) != _DEVICE_TYPE:
            return None
        header = self._headers.read(device - self._headers.body_offset)
        part = self._headers.part_address(header, NAME) if header is not None and header.is_plausible else None
        return None if part is None else self._bodies.string(part + self._width)

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

    def _key_field(self, body: int, path: str) -> Optional[int]:
        """A field of what bears the mark of a key; None: it is none, or not in memory."""
        forms = self._bodies.forms("_CM_KEY_BODY", path)
        return self._bodies.field(forms[0], body, path) if forms and self._pages.number(body, 4) == _KEY_MARK else None

    def _describe_key(self, body: int) -> Optional[str]:
        """The opener of a key, whose number stays even when the handle is closed."""
        opener = self._key_field(body, "ProcessID")
        return f"{KEY_VERB} pid {opener}" if opener else None

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
        r"""``CORP\alice``: the account of a token's logon session; None: not in memory, or not known of this kernel.

        A session is believed only if it bears the number of the token's logon.
        """
        names = ("LogonId", "AuthorityName", "AccountName")
        for form in self._bodies.forms("_TOKEN", "LogonSession"):
            session = self._bodies.field(form, token, "LogonSession")
            for places in self._bodies.forms("_SEP_LOGON_SESSION_REFERENCES", *names) if session else ():
                number_at, *name_places = (places.offset(name) or 0 for name in names)
                if not session or self._pages.number(session + number_at, 8) != logon:
                    continue
                account = "\\".join(filter(None, (self._bodies.string(session + place) for place in name_places)))
                if account:
                    self.accounts.add(account)
                    return account
        return None

    def _describe_section(self, body: int) -> Optional[str]:
        """The file that a section maps; what is read is believed where the pointers agree with each other.

        A section leads to its control area, before 14393 by way of the segment; these two point at each other.
        """
        narrow = self._width == 4
        first = self._pages.pointer(body + (0x14 if narrow else 0x28))
        if not first:
            return None
        areas = [first & ~3]
        if (self._kernel.build or _FIRST_WITH_PLAIN_SECTIONS) < _FIRST_WITH_PLAIN_SECTIONS:
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
        """The image that a thread starts in; where layouts differ from each other, all of them must tell the same."""
        found = set()
        for form in self._bodies.build_forms("_ETHREAD", "StartAddress"):
            start = self._bodies.field(form, body, "StartAddress")
            module = self._bodies.find_module(start)
            if module is not None and start:
                found.add(f"starts at {module.name}+0x{start - module.base:x}")
        return found.pop() if len(found) == 1 else None

    def _describe_registration(self, body: int) -> Optional[str]:
        """The driver that registered, by the place that called or is called, or the process.

        What the flags tell apart is told by the pointers themselves: kernels differ in both, and up to Windows 7 the
        process and the function that is called share one place.
        """
        for form in self._bodies.near_forms("_ETW_REG_ENTRY", "Callback", "Process"):
            for address in (self._caller_of(body, form), self._bodies.field(form, body, "Callback")):
                module = self._bodies.find_module(address)
                if module is not None and address:
                    return f"{_REGISTRATION_VERB} {module.name}+0x{address - module.base:x}"
            described = self.describe_process(self._bodies.field(form, body, "Process"), _REGISTRATION_VERB)
            if described is not None:
                return described
        return None

    def _caller_of(self, body: int, form: Struct) -> Optional[int]:
        """The place that a driver registered from, which kernels keep since Windows 8."""
        callback = form.offset("Callback")
        same = [
            other
            for other in self._bodies.near_forms("_ETW_REG_ENTRY", "Caller", "Callback")
            if other.offset("Callback") == callback
        ]
        return self._bodies.field(same[0], body, "Caller") if same else None

    def _describe_port(self, body: int) -> Optional[str]:
        for form in self._bodies.near_forms("_ALPC_PORT", "OwnerProcess"):
            owner = self._bodies.field(form, body, "OwnerProcess")
            described = self.describe_process(owner & ~7, _PORT_VERB) if owner else None
            if described is not None:
                return described
        return None

    def describe_process(self, address: Optional[int], verb: str) -> Optional[str]:
        """``owned by pid 2428``; None: no process, or not in memory."""
        pid = self._bodies.process_number(address)
        return f"{verb} pid {pid}" if pid else None


def _join_file(name: Optional[str], device: Optional[str], driver: Optional[str]) -> Optional[str]:
    place = f"{device or ''}{name or ''}" if device is None or not name or name[0] == "\\" else f"{device}\\{name}"
    return " ".join(word for word in (place, f"({driver})" if driver else None) if word) or None


def count_descriptions(found: List[Optional[str]]) -> Tuple[Tuple[str, int], ...]:
    """How often each description was found, most first."""
    counts: Dict[str, int] = {}
    for description in found:
        if description is not None:
            counts[description] = counts.get(description, 0) + 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
