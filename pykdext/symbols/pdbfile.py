"""Microsoft's program database (PDB 7.0): addresses by public name, functions by address, layouts of structures.

Sources: Microsoft's published ``microsoft-pdb`` sources and LLVM's documentation of the format.
"""

from __future__ import annotations

import bisect
import re
import struct
from functools import cached_property
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from pykdext.errors import SymbolFileError
from pykdext.model import TypeLayout
from pykdext.symbols.codenames import CodeName, CodeNames
from pykdext.symbols.identity import PdbName, render_identity
from pykdext.symbols.msf import MsfFile, open_msf
from pykdext.symbols.pdbrecords import PublicSymbol, iter_procedures, iter_publics, list_module_streams
from pykdext.symbols.pdbtypes import TypeRecords
from pykdext.units import count_things

_INFO_STREAM = 1
_TYPE_STREAM = 2
_DEBUG_STREAM = 3

_INFO = struct.Struct("<IIIIHH8s")
"""Version, time stamp, age, the four parts of the GUID."""
_FIRST_VERSION_WITH_GUID = 20000404

_DEBUG_HEADER = struct.Struct("<iII6HiiiiiIiiHHI")
"""The DBI stream's: signature, version, age; streams of globals, publics and symbol records between build numbers;
the sizes of its parts; flags, machine."""
_DEBUG_SIGNATURE = -1
_MACHINE_X86 = 0x14C

# Places in the list of optional debug streams; a stream that is not there is 0xFFFF.
_OMAP_FROM_SOURCE = 4
_SECTION_HEADERS = 5
_ORIGINAL_SECTION_HEADERS = 10
_NO_STREAM = 0xFFFF

_SECTION_HEADER_BYTES = 40

MAX_PROCEDURE_BYTES = 64 << 20
"""Symbols of object files that are looked through for functions; those of a large driver have some 10 MB."""

_DECORATED = re.compile(r"[_@](\w+?)(?:@\d+)?")
"""The names of C on x86: ``_cdecl``, ``_stdcall@8``, ``@fastcall@8``."""


class PdbSymbols:
    """The symbols of one PDB for an image loaded at ``base``. Streams are read when they are first asked for.

    Read: publics with their addresses (also of images that were rearranged after linking: OMAP), where functions begin
    and end, and the sizes and fields of structures, classes and unions. Not read: functions' insides, lines, locals,
    fields of base classes.
    """

    name = "pdb"

    def __init__(self, file: MsfFile, base: int, debug: _DebugInformation) -> None:
        self._file = file
        self._base = base
        self._debug = debug

    @property
    def path(self) -> str:
        """The file."""
        return self._file.path

    def find_address(self, symbol: str) -> Optional[int]:
        """Base plus RVA of a public symbol; on x86 its name may lack the decoration. SymbolFileError if damaged."""
        place = self._publics.get(symbol)
        if place is None:
            return None
        rva = self._address_map.find_rva(*place)
        return None if rva is None else self._base + rva

    def find_type(self, type_name: str) -> Optional[TypeLayout]:
        """Size and fields of a structure, class or union. SymbolFileError if damaged."""
        return self._types.find_layout(type_name)

    def find_enumeration(self, type_name: str) -> Optional[Dict[str, int]]:
        """The enumerators of an enumeration and their values. SymbolFileError if damaged."""
        return self._types.find_enumeration(type_name)

    def find_function(self, address: int) -> Optional[Tuple[str, int]]:
        """The function around an address and the offset in it, in bytes. SymbolFileError if damaged.

        Where the PDB tells only of publics it is the nearest before the address, however far that is.
        """
        return self._functions.find(address - self._base)

    @cached_property
    def _publics(self) -> Dict[str, Tuple[int, int]]:
        """Segment and offset of every public, by name, on x86 also without the decoration."""
        publics = {symbol.name: (symbol.segment, symbol.offset) for symbol in self._iter_publics()}
        for decorated, place in tuple(publics.items()):
            publics.setdefault(self._undecorate(decorated), place)
        return publics

    @cached_property
    def _functions(self) -> CodeNames:
        return CodeNames((*self._iter_procedures(), *self._iter_public_functions()))

    def _iter_public_functions(self) -> Iterator[CodeName]:
        for symbol in self._iter_publics():
            rva = self._address_map.find_rva(symbol.segment, symbol.offset) if symbol.is_code else None
            if rva is not None:
                yield CodeName(rva, self._undecorate(symbol.name))

    def _iter_procedures(self) -> Iterator[CodeName]:
        """The functions of all object files, as far as these have symbols in the PDB."""
        room_bytes = MAX_PROCEDURE_BYTES
        for number, size_bytes in dict(list_module_streams(self._debug.modules)).items():
            stream = self._file.read_stream(number)[: min(size_bytes, room_bytes)]
            if len(stream) == size_bytes:  # else it was cut
                room_bytes -= size_bytes
                for procedure in iter_procedures(self.path, stream):
                    rva = self._address_map.find_rva(procedure.segment, procedure.offset)
                    if rva is not None:
                        yield CodeName(rva, procedure.name, rva + procedure.size_bytes)

    def _iter_publics(self) -> Iterator[PublicSymbol]:
        return iter_publics(self.path, self._file.read_stream(self._debug.symbol_records))

    def _undecorate(self, name: str) -> str:
        match = _DECORATED.fullmatch(name) if self._debug.machine == _MACHINE_X86 else None
        return name if match is None else match.group(1)

    @cached_property
    def _address_map(self) -> _AddressMap:
        moved = self._file.read_stream(self._debug.optional_stream(_OMAP_FROM_SOURCE))
        which = _ORIGINAL_SECTION_HEADERS if moved else _SECTION_HEADERS
        headers = self._file.read_stream(self._debug.optional_stream(which))
        if not headers:
            raise SymbolFileError(self.path, "no section headers", "those of the image")
        return _AddressMap(headers, moved)

    @cached_property
    def _types(self) -> TypeRecords:
        return TypeRecords(self.path, self._file.read_stream(_TYPE_STREAM))


def load_pdb(path: str, wanted: PdbName, base: int) -> PdbSymbols:
    """The symbols in the file at ``path``.

    Raises:
        SymbolFileError: it is no PDB, is damaged, or belongs to another build than ``wanted``.
    """
    file = open_msf(path)
    debug = _parse_debug_information(path, file.read_stream(_DEBUG_STREAM))
    guid, written = _parse_info(path, file.read_stream(_INFO_STREAM))
    # The DBI stream's age is the one that the linker copies into the image; tools that rewrite the PDB later count on
    # only in the info stream. A PDB without DBI's age (types only) has no better one.
    age = debug.age or written
    if (guid, age) != (wanted.guid, wanted.age):
        raise SymbolFileError(path, render_identity(guid, age), wanted.identity)
    return PdbSymbols(file, base, debug)


def _parse_info(path: str, stream: bytes) -> Tuple[str, int]:
    """GUID and age."""
    if len(stream) < _INFO.size:
        raise SymbolFileError(path, f"an info stream of {count_things(len(stream), 'byte')}", f"{_INFO.size} or more")
    version, _, age, first, second, third, rest = _INFO.unpack_from(stream)
    if version < _FIRST_VERSION_WITH_GUID:
        raise SymbolFileError(path, f"PDB version {version}", f"{_FIRST_VERSION_WITH_GUID} (VC70) or newer")
    return f"{first:08X}{second:04X}{third:04X}{rest.hex().upper()}", age


class _DebugInformation:
    """What is needed of the DBI stream's header.

    Attributes:
        age: 0 where the PDB does not say. machine: of the image's file header. symbol_records: a stream's number.
        modules: the list of object files.
    """

    def __init__(
        self, age: int, machine: int, symbol_records: int, modules: bytes, optional_streams: Sequence[int]
    ) -> None:
        self.age = age
        self.machine = machine
        self.symbol_records = symbol_records
        self.modules = modules
        self._optional_streams = optional_streams

    def optional_stream(self, place: int) -> int:
        """The number of an optional debug stream, ``_NO_STREAM`` if there is none."""
        return self._optional_streams[place] if place < len(self._optional_streams) else _NO_STREAM


def _parse_debug_information(path: str, stream: bytes) -> _DebugInformation:
    if not stream:
        return _DebugInformation(0, 0, _NO_STREAM, b"", ())
    if len(stream) < _DEBUG_HEADER.size:
        raise SymbolFileError(
            path, f"a DBI stream of {count_things(len(stream), 'byte')}", f"{_DEBUG_HEADER.size} or more"
        )
    signature, _, age, _, _, _, _, symbol_records, _, *rest = _DEBUG_HEADER.unpack_from(stream)
    module_bytes, contributions, section_map, sources, type_servers, _, list_bytes, edit_and_continue, *rest = rest
    _, machine, _ = rest
    parts = (module_bytes, contributions, section_map, sources, type_servers, edit_and_continue)
    start = _DEBUG_HEADER.size + sum(parts)
    if signature != _DEBUG_SIGNATURE or min(*parts, list_bytes) < 0 or start + list_bytes > len(stream):
        found = f"signature {signature} and parts of {count_things(start + list_bytes, 'byte')}"
        raise SymbolFileError(path, found, f"-1 and at most the DBI stream's {count_things(len(stream), 'byte')}")
    optional_streams = struct.unpack_from(f"<{list_bytes // 2}H", stream, start)
    modules = stream[_DEBUG_HEADER.size : _DEBUG_HEADER.size + module_bytes]
    return _DebugInformation(age, machine, symbol_records, modules, optional_streams)


class _AddressMap:
    """From segment and offset, as publics have them, to the RVA in the image.

    ``moved`` is the OMAP table of an image whose parts were rearranged after linking (kernels before Windows 8): pairs
    of RVAs, ascending by the first: bytes from there on stand at the second now, or nowhere (0).
    """

    def __init__(self, section_headers: bytes, moved: bytes) -> None:
        whole = len(section_headers) - len(section_headers) % _SECTION_HEADER_BYTES
        self._sections: List[int] = [row[0] for row in struct.iter_unpack("<12xI24x", section_headers[:whole])]
        pairs = list(struct.iter_unpack("<II", moved[: len(moved) & ~7]))
        self._sources: List[int] = [source for source, _ in pairs]
        self._places: List[int] = [place for _, place in pairs]

    def find_rva(self, segment: int, offset: int) -> Optional[int]:
        """None for what is not in the image: absolute symbols, and code that was removed."""
        if not 1 <= segment <= len(self._sections):
            return None
        rva = self._sections[segment - 1] + offset
        if not self._sources:
            return rva
        row = bisect.bisect_right(self._sources, rva) - 1
        if row < 0 or not self._places[row]:
            return None
        return rva - self._sources[row] + self._places[row]
