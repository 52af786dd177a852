"""The few errors of pykdext. Each one is a user's error: one line, with machine-readable facts beside the text.

The text of every error follows one form: what was being read, where, what was found, what was wanted, a hint.
"""

from __future__ import annotations

import ntpath
import sys
from typing import Optional


class PykdextError(Exception):
    """Root of all errors that a user can be told about in one line."""


class TargetError(PykdextError):
    """A debugging target (session or dump) cannot give what was asked of it."""


class MemoryReadError(TargetError):
    """Not every byte of a range could be read.

    Attributes:
        address: first byte of the range that was asked for.
        size: number of bytes that were asked for.
    """

    def __init__(self, address: int, size: int, reason: str = "not present in the target") -> None:
        super().__init__(f"memory at 0x{address:x}, 0x{size:x} bytes: {reason}")
        self.address = address
        self.size = size


class SymbolNotFoundError(TargetError):
    """No source of symbols knows the name of a kernel variable or type."""

    def __init__(self, name: str, hint: str = "") -> None:
        super().__init__(f"symbol {name}: not known" + (f". Hint: {hint}" if hint else ""))
        self.name = name


class NotKernelTargetError(TargetError):
    """The target is a user-mode process or its dump: it has no kernel pool."""


class UnknownMachineError(PykdextError):
    """A processor that a part of the tool has no row for.

    Attributes:
        machine: the processor. room: the part, in words.
    """

    def __init__(self, machine: object, room: str, known: str) -> None:
        super().__init__(f"{room}: found processor {machine}, expected one of {known}")
        self.machine = machine
        self.room = room


class FileFormatError(PykdextError):
    """A binary file is not of the form it was taken for, or is damaged where it must not be.

    Attributes:
        path: the file. offset: byte offset in it. found, expected: what stood there, and what was wanted.
    """

    def __init__(self, path: str, offset: int, found: str, expected: str, hint: str = "") -> None:
        text = f"{path}: at 0x{offset:x}: found {found}, expected {expected}"
        super().__init__(text + (f". Hint: {hint}" if hint else ""))
        self.path = path
        self.offset = offset
        self.found = found
        self.expected = expected


class DumpFormatError(FileFormatError):
    """A file is not a dump that can be read."""


class ImageFormatError(FileFormatError):
    """A file is not a driver image (PE) that can be searched, or not all of it is there."""


class UnsupportedDumpError(DumpFormatError):
    """A dump that is well formed, but holds no pool tag tables or is of a kind that is not read."""


class SymbolFileError(PykdextError):
    """A file of symbols (PDB, ISF) is damaged, is not of the form it was taken for, or belongs to another build.

    Attributes:
        path: the file, or the address it was asked from. found, expected: what stood there, and what was wanted.
    """

    def __init__(self, path: str, found: str, expected: str, hint: str = "") -> None:
        super().__init__(f"{path}: found {found}, expected {expected}" + (f". Hint: {hint}" if hint else ""))
        self.path = path
        self.found = found
        self.expected = expected
        self.hint = hint


class RecordFormatError(PykdextError):
    """A text or snapshot file is not of the form it was taken for.

    Attributes:
        path: the file. line: 1-based line number, or None where lines mean nothing.
    """

    def __init__(self, path: str, line: Optional[int], found: str, expected: str) -> None:
        where = f"{path}: line {line}" if line is not None else path
        super().__init__(f"{where}: found {found}, expected {expected}")
        self.path = path
        self.line = line


class LayoutNotFoundError(PykdextError):
    """No layout of a kernel structure fits this build and its data.

    Attributes:
        build: Windows build number, or None where it is unknown.
    """

    def __init__(self, build: Optional[int], structure: str, found: str) -> None:
        release = f"build {build}" if build is not None else "an unknown build"
        super().__init__(f"{structure} of {release}: no known layout fits: {found}")
        self.build = build


class StructSizeError(PykdextError):
    """A structure or a field of it is not of the size that it must have.

    Attributes:
        structure: its name, in Microsoft's spelling. found, expected: both sizes, in words.
    """

    def __init__(self, structure: str, found: str, expected: str) -> None:
        super().__init__(f"{structure}: found {found}, expected {expected}")
        self.structure = structure
        self.found = found
        self.expected = expected


def say_install(extra: str) -> str:
    """The command that installs an extra of this package into the Python that runs; for sh, zsh, PowerShell and cmd.

    Inside a debugger the program that runs is no Python, and which one it was started from is not known.
    """
    program = sys.executable or ""
    python = program if ntpath.basename(program).lower().startswith("py") and " " not in program else "python"
    return f'{python} -m pip install "pykdext[{extra}]"'
