"""Real machine code to search: the PE files of a folder, mapped as a loader would map them."""

from __future__ import annotations

import glob
import importlib.util
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from pykdext.images.image import Image, read_image
from pykdext.model import Machine, Module
from tests.helpers.segments import SegmentsTarget

PAGE_BYTES = 0x1000
MAX_IMAGES = 200  # about what a machine has loaded
MIN_CODE_BYTES = 8_000_000  # less is no measurement

_BASE = 0xFFFFF80000000000
_MACHINES = {Machine.X86: 0x014C, Machine.X64: 0x8664, Machine.ARM64: 0xAA64}
_EXECUTE = 0x20000000


@dataclass(frozen=True)
class MappedFile:
    """A PE file as it lies in memory: the whole of it, and where its executable sections are."""

    name: str
    memory: bytes
    executable: Sequence[slice]

    @property
    def code(self) -> List[bytes]:
        """The bytes of each executable section."""
        return [self.memory[part] for part in self.executable]

    @property
    def code_bytes(self) -> int:
        """The size of all executable sections."""
        return sum(part.stop - part.start for part in self.executable)


def find_images_folder() -> Optional[Path]:
    """Where this system has many x64 PE files: Windows' own drivers, or the modules of Debian's package libwine."""
    if sys.platform == "win32":
        return Path(r"C:\Windows\System32\drivers")
    found = glob.glob("/usr/lib/*/wine/x86_64-windows")
    return Path(found[0]) if found else None


def load_images(folder: Path, machine: Machine = Machine.X64) -> List[MappedFile]:
    """The ``MAX_IMAGES`` PE files of ``folder`` for ``machine`` with most code."""
    mapped = (_map_file(path.name, path.read_bytes(), machine) for path in sorted(folder.iterdir()) if path.is_file())
    images = [image for image in mapped if image is not None]
    return sorted(images, key=lambda image: image.code_bytes, reverse=True)[:MAX_IMAGES]


def find_launchers_folder() -> Optional[Path]:
    """Where pip has its launchers for Windows: small programs for all machines, of Microsoft's compiler."""
    found = importlib.util.find_spec("pip")
    folder = Path(found.origin).parent / "_vendor" / "distlib" if found and found.origin else None
    return folder if folder and folder.is_dir() else None


def open_images(files: Sequence[MappedFile], *, code_only: bool) -> List[Image]:
    """Images in a target's memory, not read yet; ``code_only``: their other sections are not in memory."""
    images: List[Image] = []
    for file in files:
        parts = [slice(0, PAGE_BYTES), *file.executable] if code_only else [slice(0, len(file.memory))]
        target = SegmentsTarget({_BASE + part.start: file.memory[part] for part in parts}, machine=Machine.X64)
        images.append(read_image(target, Module(file.name, _BASE, len(file.memory))))
    return images


def _map_file(name: str, data: bytes, wanted: Machine) -> Optional[MappedFile]:
    """The file mapped by its section table (PE Format specification); None if it is no image for that machine."""
    if data[:2] != b"MZ" or len(data) < PAGE_BYTES // 4:
        return None
    (header,) = struct.unpack_from("<I", data, 0x3C)
    machine, section_count = struct.unpack_from("<HH", data, header + 4)
    if data[header : header + 4] != b"PE\0\0" or machine != _MACHINES[wanted]:
        return None
    (optional_bytes,) = struct.unpack_from("<H", data, header + 20)
    image_bytes, header_bytes = struct.unpack_from("<I", data, header + 24 + 56)[0], PAGE_BYTES
    memory = bytearray(image_bytes)
    memory[:header_bytes] = data[:header_bytes].ljust(header_bytes, b"\0")
    executable: List[slice] = []
    for number in range(section_count):
        row = header + 24 + optional_bytes + 40 * number
        virtual_bytes, rva, raw_bytes, raw = struct.unpack_from("<IIII", data, row + 8)
        (flags,) = struct.unpack_from("<I", data, row + 36)
        size = min(virtual_bytes, raw_bytes)
        memory[rva : rva + size] = data[raw : raw + size]
        if flags & _EXECUTE and size:
            executable.append(slice(rva, rva + size))
    return MappedFile(name, bytes(memory), executable)
