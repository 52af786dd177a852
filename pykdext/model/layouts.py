"""Layouts of structures, and the reading of records by the names of their fields.

A layout says where fields stand; who knows it (symbols, a table by build) lies above. This module stands with the
values because the readers of loader lists in ``targets`` need it before any symbols can be looked for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from pykdext.errors import StructSizeError
from pykdext.units import count_things

Record = Mapping[str, Any]
"""The fields of one record by name: an int for a number or a pointer, bytes for anything else, None for a field that
this kernel does not have."""

_Bytes = Union[bytes, bytearray, memoryview]

_ABSENT = (None,)

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ELEMENT = re.compile(r"(.+)\[(\d+)\]")


@dataclass(frozen=True)
class FieldLayout:
    """Where a field stands in its structure, in bytes.

    Attributes:
        offset: from the structure's start; of a bit field that of the unit that holds it.
        size: of the whole field, of all elements of an array, of a bit field's unit; None: not known.
        bits: of a bit field the number of its first bit in the unit, and of how many bits it is.
        type_name: of a structure, or an array of them, the name by which the same source knows it.
        count: of an array, how many elements it has.
    """

    offset: int
    size: Optional[int] = None
    bits: Optional[Tuple[int, int]] = None
    type_name: Optional[str] = None
    count: Optional[int] = None


@dataclass(frozen=True)
class TypeLayout:
    """A structure: its size in bytes (None: not known) and its fields, in Microsoft's spelling."""

    size: Optional[int]
    fields: Mapping[str, FieldLayout]


FindType = Callable[[str], Optional[TypeLayout]]
"""Gives the layout of a structure by its name, None if it is not known."""


def find_field(find_type: FindType, layout: TypeLayout, path: str) -> Optional[FieldLayout]:
    """The field ``path`` of a structure, placed from the structure's start; None if there is no such field.

    A path names a field (``UniqueProcessId``), one inside another (``Pcb.DirectoryTableBase``), or one element of an
    array (``ProcessQuotaUsage[1]``).
    """
    whole = layout.fields.get(path)
    if whole is not None:
        return whole
    element = _ELEMENT.fullmatch(path)
    if element is not None:
        array = find_field(find_type, layout, element[1])
        index = int(element[2])
        if array is None or not array.count or array.size is None or index >= array.count:
            return None
        size = array.size // array.count
        return FieldLayout(array.offset + index * size, size, type_name=array.type_name)
    outer, _, inner = path.rpartition(".")
    around = find_field(find_type, layout, outer) if outer else None
    if around is None or around.type_name is None:
        return None
    nested = find_type(around.type_name)
    found = None if nested is None else find_field(find_type, nested, inner)
    return None if found is None else _moved(found, around.offset)


def _moved(field: FieldLayout, distance: int) -> FieldLayout:
    return FieldLayout(field.offset + distance, field.size, field.bits, field.type_name, field.count)


class _Cell(NamedTuple):
    """Bytes of a record that are read at once."""

    offset: int
    size: int
    is_number: bool
    is_signed: bool

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def code(self) -> str:
        if not self.is_number:
            return f"{self.size}s"
        code = _CODES[self.size]
        return code.lower() if self.is_signed else code


class _Region(NamedTuple):
    """Cells that overlap each other, or a single one."""

    offset: int
    end: int
    cells: List[_Cell]


@dataclass(frozen=True)
class Struct:
    """The fields of a structure that somebody asked for, and reading records by them.

    Attributes:
        name: of the structure, in Microsoft's spelling.
        source: who knew the layout: ``target``, ``pdb``, ``isf``, or ``table`` for the tables by build.
        size: of a record in bytes, and the distance of two in an array; None: not known.
        fields: every field that was asked for, in that order; None: this kernel has no such field.
        signed: the fields that are signed numbers; all others are read as unsigned.
        doubtful: those of the fields that are None because the kernels of this build have them in different places.
    """

    name: str
    source: str
    size: Optional[int]
    fields: Mapping[str, Optional[FieldLayout]]
    signed: Collection[str] = ()
    doubtful: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path, field in self.fields.items():
            if field is not None and field.size is not None and self.size is not None:
                end = field.offset + field.size
                if end > self.size:
                    raise StructSizeError(self.name, f"{path} that ends at 0x{end:x}", f"at most 0x{self.size:x}")

    def offset(self, path: str) -> Optional[int]:
        """Where a field begins, in bytes from the structure's start; None: this kernel has no such field."""
        field = self.fields[path]
        return None if field is None else field.offset

    def has(self, *paths: str) -> bool:
        """Whether this kernel has all these fields."""
        return all(self.fields[path] is not None for path in paths)

    @cached_property
    def start(self) -> int:
        """Where the first of the fields begins: records are read from here."""
        return min((field.offset for field in self.fields.values() if field is not None), default=0)

    @cached_property
    def end(self) -> int:
        """Where the last of the fields ends: records are read up to here."""
        return max((cell.end for cell in self._cells.values()), default=0)

    @property
    def stride(self) -> int:
        """The distance of two records of an array, in bytes.

        Raises:
            StructSizeError: the size is not known, or smaller than the fields need.
        """
        if not self.size or self.size < self.end:
            found = "no known size" if self.size is None else count_things(self.size, "byte")
            raise StructSizeError(self.name, found, f"0x{self.end:x} or more")
        return self.size

    def parse(self, data: _Bytes, start: int = 0) -> Record:
        """One record out of ``data``, whose first byte is byte ``start`` of the record.

        Raises:
            StructSizeError: ``data`` ends before the last field.
        """
        if start > self.start or start + len(data) < self.end:
            found = f"bytes 0x{start:x} to 0x{start + len(data):x}"
            raise StructSizeError(self.name, found, f"0x{self.start:x} to 0x{self.end:x}")
        if start not in self._formats:
            self._formats[start] = struct.Struct(self._format(self.end, start))
        return dict(zip(self.fields, self._arrange(self._formats[start].unpack_from(data))))

    def iter_unpack(self, data: _Bytes, stride: Optional[int] = None) -> Iterator[Tuple[Any, ...]]:
        """Every whole record of an array: the values in the order in which the fields were asked for.

        ``stride``: the distance of two records where it is not the structure's size.

        Raises:
            StructSizeError: the size is not known and no stride given, or the stride is smaller than the fields need.
        """
        step = self.stride if stride is None else stride
        if step < self.end or step == 0:
            raise StructSizeError(
                self.name, f"a distance of {count_things(step, 'byte')} between records", f"0x{self.end:x} or more"
            )
        whole = memoryview(data)[: len(data) - len(data) % step]
        rows = struct.iter_unpack(self._format(step), whole)
        if self._order is None:
            return map(self._arrange, rows)
        if self._order == tuple(range(len(self._regions))):
            return rows
        if len(self._regions) in self._order:
            rows = (row + _ABSENT for row in rows)
        return map(itemgetter(*self._order), rows) if len(self._order) > 1 else map(self._arrange, rows)

    @cached_property
    def _cells(self) -> Dict[str, _Cell]:
        """The bytes of every field that has a place and a size."""
        cells: Dict[str, _Cell] = {}
        for path, field in self.fields.items():
            if field is not None and field.size:
                is_number = field.size in _CODES and field.count is None
                is_signed = path in self.signed and field.bits is None
                cells[path] = _Cell(field.offset, field.size, is_number, is_number and is_signed)
        return cells

    @cached_property
    def _regions(self) -> List[_Region]:
        regions: List[_Region] = []
        for cell in sorted(set(self._cells.values())):
            if regions and cell.offset < regions[-1].end:
                last = regions[-1]
                regions[-1] = _Region(last.offset, max(last.end, cell.end), [*last.cells, cell])
            else:
                regions.append(_Region(cell.offset, cell.end, [cell]))
        return regions

    @cached_property
    def _formats(self) -> Dict[int, struct.Struct]:
        """Formats that were used, by the byte of the record that they begin at."""
        return {}

    def _format(self, size: int, start: int = 0) -> str:
        """``struct`` format that gives a value for each region, for records of ``size`` bytes, from byte ``start``."""
        codes, reached = ["<"], start
        for region in self._regions:
            codes.append(f"{region.offset - reached}x")
            codes.append(region.cells[0].code if len(region.cells) == 1 else f"{region.end - region.offset}s")
            reached = region.end
        return "".join([*codes, f"{size - reached}x"])

    @cached_property
    def _getters(self) -> Tuple[Callable[[Tuple[Any, ...]], Any], ...]:
        """For each field that was asked for, how its value comes out of the values of the regions."""
        return tuple(self._getter(path) for path in self.fields)

    def _getter(self, path: str) -> Callable[[Tuple[Any, ...]], Any]:
        field, cell = self.fields[path], self._cells.get(path)
        index = self._region_of(cell)
        if field is None or cell is None or index is None:
            nothing = b"" if field is not None and field.size == 0 else None
            return lambda _: nothing
        region = self._regions[index]
        get: Callable[[Tuple[Any, ...]], Any] = itemgetter(index)
        if len(region.cells) > 1:
            first, last = cell.offset - region.offset, cell.end - region.offset
            if cell.is_number:
                is_signed = cell.is_signed

                def get(row: Tuple[Any, ...]) -> Any:
                    return int.from_bytes(row[index][first:last], "little", signed=is_signed)
            else:

                def get(row: Tuple[Any, ...]) -> Any:
                    return row[index][first:last]

        if field.bits is None:
            return get
        shift, width = field.bits
        return _bit_getter(get, shift, width, path in self.signed)

    @cached_property
    def _order(self) -> Optional[Tuple[int, ...]]:
        """Which region each field is, one behind the last for absent fields; None where values must be worked out."""
        order: List[int] = []
        for path, field in self.fields.items():
            cell = self._cells.get(path)
            index = self._region_of(cell)
            if field is None:
                order.append(len(self._regions))
            elif field.bits is not None or index is None or len(self._regions[index].cells) > 1:
                return None
            else:
                order.append(index)
        return tuple(order)

    def _region_of(self, cell: Optional[_Cell]) -> Optional[int]:
        return next((number for number, region in enumerate(self._regions) if cell in region.cells), None)

    def _arrange(self, row: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return tuple([get(row) for get in self._getters])


def _bit_getter(
    get: Callable[[Tuple[Any, ...]], Any], shift: int, width: int, is_signed: bool
) -> Callable[[Tuple[Any, ...]], Any]:
    mask, sign = (1 << width) - 1, 1 << (width - 1)
    if not is_signed:
        return lambda row: get(row) >> shift & mask
    return lambda row: (get(row) >> shift & mask ^ sign) - sign


def make_struct(
    name: str,
    source: str,
    layout: TypeLayout,
    paths: Collection[str],
    find_type: FindType,
    signed: Collection[str] = (),
    sizes: Optional[Mapping[str, int]] = None,
    doubtful: FrozenSet[str] = frozenset(),
) -> Struct:
    """The struct of the fields ``paths`` by one source's layouts.

    ``sizes``: bytes that fields must have; a field whose size the source does not know is taken to be of that size.
    ``doubtful``: fields of which the source knows several places.

    Raises:
        StructSizeError: a field is of another size than ``sizes`` says, or ends behind the structure's end.
    """
    wanted = sizes or {}
    fields: Dict[str, Optional[FieldLayout]] = {}
    for path in paths:
        field = find_field(find_type, layout, path)
        if field is not None and path in wanted and field.size != wanted[path]:
            if field.size is not None:
                raise StructSizeError(name, f"{path} of {count_things(field.size, 'byte')}", str(wanted[path]))
            field = FieldLayout(field.offset, wanted[path], field.bits, field.type_name, field.count)
        fields[path] = field
    unsure = tuple(path for path in paths if fields[path] is None and not doubtful.isdisjoint(_parts(path)))
    return Struct(name, source, layout.size, fields, tuple(signed), unsure)


def _parts(path: str) -> Iterator[str]:
    """The path and every field around it: ``a.b[1]``, ``a.b``, ``a``."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
