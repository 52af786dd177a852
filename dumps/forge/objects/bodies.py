"""What objects keep of their owners: files their device, keys their control block, tokens their source, and so on."""

from __future__ import annotations

import random
import struct
from typing import Dict, List, Sequence, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects import headers
from dumps.forge.objects.blocks import BlockWriter
from dumps.forge.objects.layouts import ObjectLayouts
from dumps.forge.parts import Parts

_KEY_MARK = 0x6B793032
_FILE_TYPE, _DEVICE_TYPE, _DRIVER_TYPE, _BLOCK_TYPE = 5, 3, 4, 0xA
_THREAD_TYPE = 6
_DEVICES_OF_FILES = (("HarddiskVolume2", "storport.sys", "Ntfs.sys"), ("Afd", "afd.sys", ""), ("", "rdbss.sys", ""))
_FILE_NAMES = (
    "\\Windows\\System32\\config\\SOFTWARE",
    "\\ProgramData\\Spool\\queue.dat",
    "\\Users\\Public\\Documents\\report.docx",
    "\\Endpoint",
    "\\srv\\IPC$",
)
_SOURCES = (b"User32 \0", b"Advapi  ", b"NtLmSsp\0", b"Kerberos")
_LOGONS = {b"User32": 0x5A1F3, b"Kerberos": 0x7C0DE, b"NtLmSsp": 0x3E4, b"Advapi": 0x3E7}
_ACCOUNTS = {0x5A1F3: ("CONTOSO", "alice"), 0x7C0DE: ("CONTOSO", "bob"), 0x3E4: ("CONTOSO", "SRV01$")}
_REGISTERED_BY_DRIVERS = 0.1
_FIRST_WITH_PLAIN_SECTIONS = 14393
_PLAIN_BYTES = {"Event": 0x18, "Semaphore": 0x20, "Mutant": 0x38, "Timer": 0x40, "Section": 0x40, "ALPC Port": 0x1D8}
_HEALTHY_KEY = ("REGISTRY", "MACHINE", "SYSTEM", "ControlSet001", "Services")


class BodyWriter:
    """Makes the bodies of objects; devices, drivers and key control blocks that they share are written once."""

    def __init__(self, parts: Parts, modules: LoadedModules, blocks: BlockWriter, layouts: ObjectLayouts) -> None:
        self._parts = parts
        self._layouts = layouts
        self._blocks = blocks
        self._narrow = parts.kernel.architecture.narrow
        self._pack = parts.kernel.architecture.pack_pointers
        self._chance = random.Random(parts.chance.getrandbits(32))
        self._modules = modules
        self._names: Dict[str, int] = {}
        self._form = headers.header_form(parts.kernel.architecture)
        self._devices = [self._write_volume(*names) for names in _DEVICES_OF_FILES]
        self._logons: Dict[int, int] = {}
        self._mapped = [self._write_mapped(name) for name in ("\\Windows\\System32\\ntdll.dll", "")]
        self._healthy_key = self.write_key_path(_HEALTHY_KEY)

    def size(self, type_name: str) -> int:
        """Return the bytes of a body."""
        sizes = self._parts.kernel.sizes
        if type_name == "Process":
            return sizes.eprocess
        if type_name == "Thread":
            return sizes.ethread
        if type_name == "File":
            return 0x80 if self._narrow else 0xD8
        if type_name == "Key":
            return 0x34 if self._narrow else 0x70
        if type_name == "Token":
            return 0x100 if self._narrow else 0x200
        if type_name == "EtwRegistration":
            return self._layouts.registration.find("Bytes") or (0x3C if self._narrow else 0x70)
        return _PLAIN_BYTES.get(type_name, 0x60)

    def body(self, type_name: str, holder_pid: int, holder_va: int, key_va: int = 0) -> bytes:
        """Return the body of an object that a process holds; ``key_va`` is the control block of a key."""
        if type_name == "File":
            return self._file()
        if type_name == "Key":
            words = (0, key_va or self._healthy_key, 0, holder_pid)
            return struct.pack("<I", _KEY_MARK).ljust(len(self._pack(0)), b"\0") + self._pack(*words[1:])
        if type_name == "Token":
            return self.token(self._chance.choice(_SOURCES))
        if type_name == "Section":
            return self._section(holder_pid)
        if type_name == "Thread":
            return self._thread(holder_pid, holder_va)
        if type_name == "ALPC Port":
            return self._pack(0, 0, 0, holder_va)
        if type_name == "EtwRegistration":
            return self._registration(holder_va)
        return b""

    def token(self, source: bytes) -> bytes:
        """Return a token that a source made: an impersonation token at the level of impersonation."""
        layout = self._layouts.token
        data = bytearray(self.size("Token"))
        data[:8] = source.ljust(8, b"\0")
        logon = _LOGONS[source.strip(b" \0")]
        struct.pack_into("<Q", data, 0x18, logon)
        self._put_logon(data, logon)
        struct.pack_into("<II", data, layout["TokenType"], 2, 2)
        struct.pack_into("<I", data, layout["SessionId"], 0)
        return bytes(data)

    def _put_logon(self, token: bytearray, logon: int) -> None:
        """Let a token point at its logon session, where kernels keep names of accounts in it."""
        layout = self._layouts.token
        place, account_at = layout.find("Logon"), layout.find("Account")
        if place is None or account_at is None or logon not in _ACCOUNTS:
            return
        if logon not in self._logons:
            authority, account = _ACCOUNTS[logon]
            va = self._logons[logon] = self._blocks.reserve(b"SeLs", 0xC0, paged=True)
            self._blocks.put(va + layout["LogonId"], struct.pack("<Q", logon))
            self._blocks.put(va + account_at, self.write_name(account))
            self._blocks.put(va + layout["Authority"], self.write_name(authority))
        pointer = self._pack(self._logons[logon])
        token[place : place + len(pointer)] = pointer

    def _write_mapped(self, file_name: str) -> Tuple[int, int]:
        """Write a control area with its segment, and the file that it maps; without a name the page file's."""
        narrow = self._narrow
        area_va = self._blocks.reserve(b"MmCa", 0x80, paged=False)
        segment_va = self._blocks.reserve(b"MmSt", 0x50, paged=True)
        self._blocks.put(area_va, self._pack(segment_va))
        self._blocks.put(segment_va, self._pack(area_va))
        if file_name:
            size = self.size("File")
            file_va = self._blocks.reserve(b"Fmap", size, paged=False)
            self._blocks.put(file_va, struct.pack("<HH", _FILE_TYPE, size))
            self._blocks.put(file_va + (4 if narrow else 8), self._pack(*self._devices[0]))
            self._blocks.put(file_va + (0x30 if narrow else 0x58), self.write_name(file_name))
            self._blocks.put(area_va + (0x24 if narrow else 0x40), self._pack(file_va | 5))
        return area_va, segment_va

    def _section(self, pid: int) -> bytes:
        """Return a section of a file, or of none for every fourth process."""
        area_va, segment_va = self._mapped[pid // 4 % 4 == 3]
        plain = self._parts.kernel.build >= _FIRST_WITH_PLAIN_SECTIONS
        return bytes(0x14 if self._narrow else 0x28) + self._pack(area_va | 1 if plain else segment_va)

    def write_key_path(self, path: Sequence[str]) -> int:
        """Write the control blocks of a key and its parents, and return the address of the key's own."""
        layout = self._layouts.key_control_block
        parent_offset, name_offset = layout.find("ParentKcb"), layout.find("NameBlock")
        parent_va = 0
        for name in path:
            va = self._blocks.reserve(b"CMkb", 0x138, paged=True)
            if parent_offset is not None and name_offset is not None:
                start = 0xC if self._narrow else 0x18
                name_va = self._blocks.reserve(b"CMnb", start + 2 + len(name), paged=True)
                text = name.encode("ascii")
                block = struct.pack("<I", 1).ljust(start, b"\0") + struct.pack("<H", len(text)) + text
                self._blocks.put(name_va, block)
                self._blocks.put(va + parent_offset, self._pack(parent_va))
                self._blocks.put(va + name_offset, self._pack(name_va))
            parent_va = va
        return parent_va

    def write_name(self, text: str) -> bytes:
        """Return a UNICODE_STRING of a name in paged pool; equal names share their letters."""
        if text not in self._names:
            data = text.encode("utf-16-le") + b"\0\0"
            va = self._blocks.reserve(b"ObNm", len(data), paged=True)
            self._blocks.put(va, data)
            self._names[text] = va
        return self._parts.kernel.architecture.pack_unicode_string(text, self._names[text])

    def _file(self) -> bytes:
        data = bytearray(self.size("File"))
        struct.pack_into("<HH", data, 0, _FILE_TYPE, len(data))
        places = self._pack(*self._chance.choices(self._devices, (6, 3, 1))[0])
        data[len(places) // 2 : 3 * len(places) // 2] = places
        name = self.write_name(self._chance.choice(_FILE_NAMES))
        start = 0x30 if self._narrow else 0x58
        data[start : start + len(name)] = name
        return bytes(data)

    def _thread(self, pid: int, process_va: int) -> bytes:
        layout = self._layouts.thread
        data = bytearray(self.size("Thread"))
        data[0] = _THREAD_TYPE
        members: List[Tuple[str, bytes]] = [("Cid", self._pack(pid, 4 * self._chance.randrange(3, 4000)))]
        members += [("StartAddress", self._pack(self._parts.kernel.base + 0x1000)), ("Process", self._pack(process_va))]
        for name, piece in members:
            offset = layout.find(name)
            if offset is not None and offset + len(piece) <= len(data):
                data[offset : offset + len(piece)] = piece
        return bytes(data)

    def _registration(self, process_va: int) -> bytes:
        """Return a registration of a process (flag 2), or of a driver (flag 1) with where it called from."""
        layout = self._layouts.registration
        size = layout.find("Bytes")
        if size is None:
            return b""
        data = bytearray(size)

        def put(name: str, value: int) -> None:
            place, pointer = layout.find(name), self._pack(value)
            if place is not None:
                data[place : place + len(pointer)] = pointer

        by_driver = self._chance.random() < _REGISTERED_BY_DRIVERS
        if by_driver:
            code_va = self._modules.pointers_into("afd.sys")[0]
            put("Caller", code_va + 0x41)
            put("Callback", code_va + 0x60)
        else:
            put("Process", process_va)
        data[layout["Flags"]] = 1 if by_driver else 2
        return bytes(data)

    def write_device(self, driver: str, name: str = "") -> int:
        """Write a device object that files name, with its own name if it has one, and its driver object."""
        narrow = self._narrow
        driver_va = self._blocks.reserve(b"Driv", 0xA8 if narrow else 0x150, paged=False)
        mask, form, architecture = headers.NAME, self._form, self._parts.kernel.architecture
        before = form.parts_bytes(mask) + form.size if name else 0
        device_va = self._blocks.reserve(b"Devi", before + (0xB8 if narrow else 0x150), paged=False) + before
        if name:
            header_va, build = device_va - form.size, self._parts.kernel.build
            header = headers.pack_header(
                *(architecture, build, header_va),
                handles=0,
                references=2,
                type_index=2,
                type_va=0,
                cookie=None,
                mask=mask,
            )
            self._blocks.put(header_va, header)
            self._blocks.put(header_va - form.part_offset(mask, mask), self._pack(0) + self.write_name(name))
        base = self._modules.base(driver)
        self._blocks.put(driver_va, struct.pack("<HH", _DRIVER_TYPE, 0xA8 if narrow else 0x150))
        self._blocks.put(driver_va + (0xC if narrow else 0x18), self._pack(base))
        self._blocks.put(driver_va + (0x10 if narrow else 0x20), struct.pack("<I", self._modules.images[driver].size))
        driver_name = self.write_name("\\Driver\\" + driver.split(".", maxsplit=1)[0])
        self._blocks.put(driver_va + (0x1C if narrow else 0x38), driver_name)
        self._blocks.put(device_va, struct.pack("<HH", _DEVICE_TYPE, 0xB8 if narrow else 0x150))
        self._blocks.put(device_va + 8, self._pack(driver_va))
        return device_va

    def _write_volume(self, name: str, driver: str, file_system: str) -> Tuple[int, int]:
        """Write the device of files, and for a volume the parameter block that leads to its file system's device."""
        device_va, block_va = self.write_device(driver, name), 0
        if file_system:
            block_va = self._blocks.reserve(b"Vpb ", 0x60, paged=False)
            block = struct.pack("<4H", _BLOCK_TYPE, 0x60, 1, 0) + self._pack(self.write_device(file_system), device_va)
            self._blocks.put(block_va, block)
        return device_va, block_va
