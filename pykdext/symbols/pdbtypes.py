"""The type records of a PDB (its TPI stream): sizes and fields of structures, classes and unions, by name.

Sources: Microsoft's published ``microsoft-pdb`` sources (``cvinfo.h``) and LLVM's documentation of the format.
"""

from __future__ import annotations

import re
import struct
from array import array
from typing import Dict, Iterator, List, Optional, Tuple

from pykdext.errors import SymbolFileError
from pykdext.model import FieldLayout, TypeLayout
from pykdext.units import count_things

_HEADER = struct.Struct("<IIIII")
"""Version, size of the header, first and last type index, bytes of records."""
_RECORD = struct.Struct("<HH")

_LF_MODIFIER = 0x1001
_LF_POINTER = 0x1002
_LF_FIELDLIST = 0x1203
_LF_BITFIELD = 0x1205
_LF_INDEX = 0x1404
_LF_ARRAY = 0x1503
_LF_ENUM = 0x1507
_LF_MEMBER = 0x150D
_LF_ENUMERATE = 0x1502

_AGGREGATE_SIZE_AT = {0x1504: 16, 0x1505: 16, 0x1519: 16, 0x1506: 8}
"""Where the size stands in the content of a class, structure, interface and union; its name follows."""
_IS_FORWARD = 0x80
_HAS_UNIQUE_NAME = 0x200

_OTHER_FIELDS = {
    0x1400: (8, 1, False),  # base class
    0x1401: (12, 2, False),  # virtual base class
    0x1402: (12, 2, False),  # indirect virtual base class
    0x1409: (8, 0, False),  # table of virtual functions
    0x150E: (8, 0, True),  # static member
    0x150F: (8, 0, True),  # overloaded method
    0x1510: (8, 0, True),  # nested type
    0x1512: (8, 0, True),  # nested type, extended
}
"""Parts of a field list that are no fields: bytes of the fixed part, numbers after it, and whether a name ends it."""
_LF_ONEMETHOD = 0x1511
_INTRODUCING_VIRTUAL = (4, 6)
"""Kinds of a method whose record has the offset in the table of virtual functions too."""

_NUMBERS = {
    0x8000: struct.Struct("<b"),
    0x8001: struct.Struct("<h"),
    0x8002: struct.Struct("<H"),
    0x8003: struct.Struct("<i"),
    0x8004: struct.Struct("<I"),
    0x8009: struct.Struct("<q"),
    0x800A: struct.Struct("<Q"),
}
"""Numbers from 0x8000 on are written as one of these kinds, then the value."""
_PADDING = 0xF0

_BASIC_SIZES = {
    **dict.fromkeys((0x10, 0x20, 0x30, 0x68, 0x69, 0x70, 0x7C), 1),
    **dict.fromkeys((0x11, 0x21, 0x31, 0x46, 0x71, 0x72, 0x73, 0x7A), 2),
    **dict.fromkeys((0x08, 0x12, 0x22, 0x32, 0x40, 0x74, 0x75, 0x7B), 4),
    0x44: 6,
    **dict.fromkeys((0x13, 0x23, 0x33, 0x41, 0x76, 0x77), 8),
    0x42: 10,
    **dict.fromkeys((0x14, 0x24, 0x43, 0x78, 0x79), 16),
}
"""Bytes of the types that need no record: integers, characters, truth values, floating point numbers."""
_BASIC_POINTER_SIZES = {1: 2, 2: 4, 3: 4, 4: 4, 5: 6, 6: 8, 7: 16}
_POINTER_KIND_SIZES = {0x0A: 4, 0x0B: 6, 0x0C: 8}
_RECORD_NAME = re.compile("#[0-9a-f]{1,8}")
_MAX_INDIRECTIONS = 32
"""Modifiers, enumerations and bit fields around a type; real ones need three."""
_MAX_ENUMERATORS = 1 << 16
"""The largest enumeration of a kernel has some thousands."""


class TypeRecords:
    """The records of one TPI stream.

    Raises, here and below:
        SymbolFileError: a record is not whole, or refers to one that is not there.
    """

    def __init__(self, path: str, stream: bytes) -> None:
        self._path = path
        self._data = stream
        self._first = 0
        self._positions = array("I")
        self._definitions: Dict[bytes, int] = {}
        self._enumerations: Dict[bytes, int] = {}
        if stream:
            self._index_records()

    def find_layout(self, name: str) -> Optional[TypeLayout]:
        """Size and fields of the structure, class or union ``name``; None if no record defines it.

        Types without a name of their own (``<unnamed-tag>``) go by the number of their record, as ``#1a2b``.
        """
        index = int(name[1:], 16) if _RECORD_NAME.fullmatch(name) else self._definitions.get(name.encode())
        if index is None:
            return None
        try:
            kind, start, end = self._record(index)
            if kind not in _AGGREGATE_SIZE_AT:
                return None
            _, size, _ = self._read_aggregate(kind, start, end)
            (field_list,) = struct.unpack_from("<I", self._data, start + 4)
            return TypeLayout(size, self._read_fields(field_list))
        except (struct.error, ValueError):
            raise self._damaged(f"a record of {name} that ends early") from None

    def find_enumeration(self, name: str) -> Optional[Dict[str, int]]:
        """The value of each enumerator of the enumeration ``name``, as stored; None if no record defines it."""
        index = self._enumerations.get(name.encode())
        if index is None:
            return None
        try:
            _, start, _ = self._record(index)
            (field_list,) = struct.unpack_from("<I", self._data, start + 8)
            return dict(self._iter_enumerators(field_list))
        except (struct.error, ValueError):
            raise self._damaged(f"a record of {name} that ends early") from None

    def _iter_enumerators(self, field_list: int) -> Iterator[Tuple[str, int]]:
        for number, (position, end) in enumerate(self._iter_parts(field_list)):
            (kind,) = struct.unpack_from("<H", self._data, position)
            if number >= _MAX_ENUMERATORS:
                raise self._damaged(f"an enumeration of more than {_MAX_ENUMERATORS:,} names")
            if kind != _LF_ENUMERATE:
                raise self._damaged(f"an enumeration with a part of kind 0x{kind:x} at 0x{position:x}")
            value, name_at = self._read_signed(position + 4)
            name = self._data[name_at : self._skip_name(name_at, end) - 1]
            yield name.decode("utf-8", "replace"), value

    def _damaged(self, found: str) -> SymbolFileError:
        return SymbolFileError(self._path, found, "whole type records")

    def _index_records(self) -> None:
        """Note where each record stands, and which one defines each name (also the unique one that C++ adds)."""
        if len(self._data) < _HEADER.size:
            raise self._damaged(f"a TPI stream of {count_things(len(self._data), 'byte')}")
        _, header_bytes, self._first, last, record_bytes = _HEADER.unpack_from(self._data)
        position, end = header_bytes, header_bytes + record_bytes
        if header_bytes < _HEADER.size or end > len(self._data):
            raise self._damaged(f"0x{end:x} bytes of types in a stream of 0x{len(self._data):x}")
        while position + _RECORD.size <= end:
            length, kind = _RECORD.unpack_from(self._data, position)
            if length < 2:
                break
            if kind in _AGGREGATE_SIZE_AT:
                for name in self._defined_names(kind, position + _RECORD.size, position + 2 + length):
                    self._definitions.setdefault(name, self._first + len(self._positions))
            elif kind == _LF_ENUM:
                self._index_enumeration(position + _RECORD.size, position + 2 + length)
            self._positions.append(position)
            position += 2 + length
        if position != end or self._first + len(self._positions) != last:
            raise self._damaged(f"{count_things(len(self._positions), 'type record')} up to 0x{position:x}")

    def _index_enumeration(self, start: int, end: int) -> None:
        """Note the name of an enumeration (count, properties, type, list of fields, name) unless it is announced."""
        if start + 12 >= end:
            raise self._damaged(f"an enumeration at 0x{start:x} that ends early")
        (properties,) = struct.unpack_from("<H", self._data, start + 2)
        if not properties & _IS_FORWARD:
            name = self._data[start + 12 : end].split(b"\0", 1)[0]
            self._enumerations.setdefault(name, self._first + len(self._positions))

    def _defined_names(self, kind: int, start: int, end: int) -> List[bytes]:
        """The names that an aggregate's record defines; none if it only announces the type."""
        try:
            is_forward, _, names = self._read_aggregate(kind, start, end)
        except struct.error:
            raise self._damaged(f"a type record at 0x{start:x} that ends early") from None
        return [] if is_forward else names

    def _read_aggregate(self, kind: int, start: int, end: int) -> Tuple[bool, int, List[bytes]]:
        """Whether the record only announces the type, the size, and the name, followed by the unique one if any."""
        (properties,) = struct.unpack_from("<H", self._data, start + 2)
        size, name_at = self._read_number(start + _AGGREGATE_SIZE_AT[kind])
        names = self._data[name_at:end].split(b"\0")[: 2 if properties & _HAS_UNIQUE_NAME else 1]
        return bool(properties & _IS_FORWARD), size, names

    def _record(self, index: int) -> Tuple[int, int, int]:
        """Kind, begin and end of the content of record ``index``."""
        if not 0 <= index - self._first < len(self._positions):
            raise self._damaged(f"a reference to type 0x{index:x} of {len(self._positions)}")
        position = self._positions[index - self._first]
        length, kind = _RECORD.unpack_from(self._data, position)
        return kind, position + _RECORD.size, position + 2 + length

    def _read_number(self, position: int) -> Tuple[int, int]:
        """A size or offset, of variable length, and the position behind it."""
        value, behind = self._read_signed(position)
        if value < 0:
            raise self._damaged(f"the size or offset {value} at 0x{position:x}")
        return value, behind

    def _read_signed(self, position: int) -> Tuple[int, int]:
        """A number of variable length and the position behind it."""
        (number,) = struct.unpack_from("<H", self._data, position)
        if number < 0x8000:
            return number, position + 2
        if number not in _NUMBERS:
            raise self._damaged(f"a number of kind 0x{number:x} at 0x{position:x}")
        form = _NUMBERS[number]
        (value,) = form.unpack_from(self._data, position + 2)
        return value, position + 2 + form.size

    def _read_fields(self, field_list: int) -> Dict[str, FieldLayout]:
        """Every field with its offset and size. A bit field has the offset and size of the unit that holds it."""
        fields: Dict[str, FieldLayout] = {}
        for name, offset, type_index in self._iter_members(field_list):
            fields.setdefault(name, self._describe(offset, type_index))
        return fields

    def _iter_members(self, field_list: int) -> Iterator[Tuple[str, int, int]]:
        """Name, offset and type of each member."""
        for position, end in self._iter_parts(field_list):
            (kind,) = struct.unpack_from("<H", self._data, position)
            if kind == _LF_MEMBER:
                (type_index,) = struct.unpack_from("<I", self._data, position + 4)
                offset, name_at = self._read_number(position + 8)
                name = self._data[name_at : self._skip_name(name_at, end) - 1]
                yield name.decode("utf-8", "replace"), offset, type_index

    def _iter_parts(self, field_list: int) -> Iterator[Tuple[int, int]]:
        """Begin of each part and end of its record; a list over 64 KB goes on in further records."""
        lists, seen = [field_list] if field_list else [], set()
        while lists:
            index = lists.pop()
            kind, position, end = self._record(index)
            if kind != _LF_FIELDLIST or index in seen:
                raise self._damaged(f"no list of fields, or one that contains itself, as type 0x{index:x}")
            seen.add(index)
            while position < end:
                (kind,) = struct.unpack_from("<H", self._data, position)
                if kind == _LF_INDEX:
                    lists.append(struct.unpack_from("<I", self._data, position + 4)[0])
                    position += 8
                else:
                    yield position, end
                    position = self._skip_part(kind, position, end)
                while position < end and self._data[position] > _PADDING:
                    position += self._data[position] & 0xF

    def _skip_part(self, kind: int, position: int, end: int) -> int:
        """The position behind a part of a field list."""
        if kind == _LF_MEMBER:
            return self._skip_name(self._read_number(position + 8)[1], end)
        if kind == _LF_ENUMERATE:
            return self._skip_name(self._read_signed(position + 4)[1], end)
        if kind == _LF_ONEMETHOD:
            (attributes,) = struct.unpack_from("<H", self._data, position + 2)
            introducing = (attributes >> 2 & 7) in _INTRODUCING_VIRTUAL
            return self._skip_name(position + (12 if introducing else 8), end)
        if kind not in _OTHER_FIELDS:
            raise self._damaged(f"a field of kind 0x{kind:x} at 0x{position:x}")
        fixed_bytes, numbers, named = _OTHER_FIELDS[kind]
        position += fixed_bytes
        for _ in range(numbers):
            _, position = self._read_number(position)
        return self._skip_name(position, end) if named else position

    def _skip_name(self, position: int, end: int) -> int:
        """The position behind a name; ValueError if it does not end."""
        return self._data.index(b"\0", position, end) + 1

    def _describe(self, offset: int, index: int) -> FieldLayout:
        """A field of type ``index``."""
        bits, count, type_name = None, None, None
        size = self._find_size(index)
        element_size = size
        for _ in range(_MAX_INDIRECTIONS):
            if index < self._first:
                break
            kind, start, end = self._record(index)
            if kind in _AGGREGATE_SIZE_AT:
                type_name = self._aggregate_name(index, kind, start, end)
                break
            if kind == _LF_BITFIELD:
                bits = (self._data[start + 5], self._data[start + 4])
            if kind == _LF_ARRAY:
                count = size
            elif kind not in (_LF_MODIFIER, _LF_BITFIELD):
                break
            (index,) = struct.unpack_from("<I", self._data, start)
            element_size = self._find_size(index)
        if count is not None:
            count = count // element_size if element_size else None
        return FieldLayout(offset, size, bits, type_name, count)

    def _aggregate_name(self, index: int, kind: int, start: int, end: int) -> Optional[str]:
        """The name by which ``find_layout`` finds a type; None for one that is only announced."""
        is_forward, _, names = self._read_aggregate(kind, start, end)
        definition = self._definitions.get(names[-1])
        if definition == index or (is_forward and definition is not None):
            return names[-1].decode("utf-8", "replace")
        return None if is_forward else f"#{index:x}"

    def _find_size(self, index: int) -> Optional[int]:
        """Bytes of a type; None where it has no size (functions, void, types that are only announced)."""
        for _ in range(_MAX_INDIRECTIONS):
            if index < self._first:
                mode = index >> 8 & 0xF
                return _BASIC_POINTER_SIZES.get(mode) if mode else _BASIC_SIZES.get(index & 0xFF)
            kind, start, end = self._record(index)
            if kind in _AGGREGATE_SIZE_AT:
                return self._aggregate_size(kind, start, end)
            if kind == _LF_ARRAY:
                return self._read_number(start + 8)[0]
            if kind == _LF_POINTER:
                (attributes,) = struct.unpack_from("<I", self._data, start + 4)
                return (attributes >> 13 & 0x3F) or _POINTER_KIND_SIZES.get(attributes & 0x1F)
            if kind in (_LF_MODIFIER, _LF_BITFIELD):
                (index,) = struct.unpack_from("<I", self._data, start)
            elif kind == _LF_ENUM:
                (index,) = struct.unpack_from("<I", self._data, start + 4)
            else:
                return None
        raise self._damaged(f"type 0x{index:x}, which refers to itself")

    def _aggregate_size(self, kind: int, start: int, end: int) -> Optional[int]:
        """The size in the record at hand, or that of the definition if the record only announces the type."""
        is_forward, size, names = self._read_aggregate(kind, start, end)
        if not is_forward:
            return size
        definition = self._definitions.get(names[-1])
        return None if definition is None else self._read_aggregate(*self._record(definition))[1]
