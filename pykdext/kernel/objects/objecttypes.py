"""The table of object types: names, tags and counters, by the kernel's own table or the list behind the type of types.

nt!ObTypeIndexTable lists all types by index (Windows 7 and later, symbols needed). The debugger data block alone leads
to the type of types, whose list links the creator parts of all type objects. Sources: public symbols; volatility3 and
MemProcFS for the table; ReactOS for the list.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple, Union

from pykdext.errors import MemoryReadError, StructSizeError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.headers import HeaderReader
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import PROTECTED_POOL, PoolKind, PoolTag, Struct
from pykdext.model.objects import ObjectType
from pykdext.targets.linkedlists import walk_list

TYPE_TAG = b"ObjT"
_MAX_TYPES = 256
_FIRST_INDEX = 2  # that of the type of types
_FEW_TYPES = 8
_MAX_NAME_BYTES = 0x200
_PATHS = (
    "TypeList",
    "Name",
    "Index",
    "TotalNumberOfObjects",
    "TotalNumberOfHandles",
    "HighWaterNumberOfObjects",
    "HighWaterNumberOfHandles",
    "TypeInfo.PoolType",
    "Key",
)
_SIZES = {"Key": 4}
_PAGED = 1


@dataclass(frozen=True)
class TypeTable:
    """The types that were found. ``source`` names the way to them; ``complete``: none is missing."""

    types: Tuple[ObjectType, ...] = ()
    source: str = ""
    complete: bool = False
    cookie: Optional[int] = None
    warnings: Tuple[str, ...] = ()
    _by_index: Dict[int, ObjectType] = field(default_factory=dict)
    _by_address: Dict[int, ObjectType] = field(default_factory=dict)

    @classmethod
    def of(
        cls, types: List[ObjectType], source: str, complete: bool, cookie: Optional[int], warnings: List[str]
    ) -> TypeTable:
        """The table of some types."""
        by_index = {kind.index: kind for kind in types}
        by_address = {kind.address: kind for kind in types}
        return cls(tuple(types), source, complete, cookie, tuple(warnings), by_index, by_address)

    def of_header(self, index: Optional[int], address: Optional[int]) -> Optional[ObjectType]:
        """The type that a header names; None: none of these."""
        if address is not None:
            return self._by_address.get(address)
        return None if index is None else self._by_index.get(index)

    def of_tag(self, tag: PoolTag) -> Tuple[ObjectType, ...]:
        """The types whose objects bear a tag; two types of one beginning share it."""
        key = tag.key & ~PROTECTED_POOL
        return tuple(kind for kind in self.types if kind.tag.key & ~PROTECTED_POOL == key)


class TypeReader:
    """Reads the types of one kernel."""

    def __init__(self, kernel: Kernel, pages: PageReader, headers: HeaderReader) -> None:
        self._kernel = kernel
        self._pages = pages
        self._headers = headers
        self._form: Optional[Struct] = None
        self._warnings: List[str] = []

    def read(self) -> TypeTable:
        """The table; empty with a reason where nothing leads to it. The headers' cookie is known afterwards."""
        type_of_types = self._kernel.find_variable("ObpTypeObjectType")
        if not type_of_types:
            return TypeTable(warnings=("object types: nothing in this source tells where they are",))
        self._form = find_form(
            self._kernel, "_OBJECT_TYPE", _PATHS, lambda form: self._is_type_of_types(form, type_of_types), _SIZES
        )
        if self._form is None:
            self._form = find_form(self._kernel, "_OBJECT_TYPE", _PATHS, self._fits_index_table, _SIZES)
        if self._form is None:
            reason = f"object types: the type of types at 0x{type_of_types:x} is not in memory or fits no known layout"
            return TypeTable(warnings=(reason,))
        addresses, source, complete = self._find_addresses(type_of_types)
        return self.read_all(addresses, source, complete)

    def read_all(self, addresses: List[int], source: str, complete: bool) -> TypeTable:
        """The table of the types at these addresses."""
        types = [kind for kind in map(self.read_type, addresses) if kind is not None]
        if len(types) < len(addresses):
            self._warnings.append(f"object types: {len(addresses) - len(types)} of {len(addresses)} are not in memory")
            complete = False
        self._find_cookie(types)
        unnamed = sum(kind.name is None for kind in types)
        if unnamed:
            self._warnings.append(f"object types: the names of {unnamed} of {len(types)} are paged out")
        return TypeTable.of(types, source, complete, self._headers.cookie, self._warnings)

    def read_type(self, address: int) -> Optional[ObjectType]:
        """The type object at an address; None: not in memory."""
        form = self._form
        assert form is not None
        try:
            record = form.parse(self._pages.read(address + form.start, form.end - form.start), form.start)
        except (MemoryReadError, StructSizeError):
            return None
        key: int = record["Key"]
        pool_type = record["TypeInfo.PoolType"]
        return ObjectType(
            address=address,
            name=self.read_string(record["Name"]),
            index=int(record["Index"]) & 0xFF,
            tag=PoolTag.from_key(key),
            pool=PoolKind.PAGED if (pool_type or 0) & _PAGED else PoolKind.NONPAGED,
            objects=record["TotalNumberOfObjects"],
            handles=record["TotalNumberOfHandles"],
            most_objects=record["HighWaterNumberOfObjects"],
            most_handles=record["HighWaterNumberOfHandles"],
        )

    def read_string(self, value: Union[int, bytes]) -> Optional[str]:
        """The letters of a UNICODE_STRING (a number where it has the size of one); None: not in memory, or no name."""
        width = self._kernel.target.pointer_size
        string = value.to_bytes(2 * width, "little") if isinstance(value, int) else value
        size = int.from_bytes(string[:2], "little")
        if not 0 < size <= _MAX_NAME_BYTES or size % 2:
            return None
        try:
            data = self._pages.read(int.from_bytes(string[width : 2 * width], "little"), size)
        except MemoryReadError:
            return None
        name = data.decode("utf-16-le", "replace")
        return name if name.isprintable() else None

    def _is_type_of_types(self, form: Struct, address: int) -> bool:
        if not form.has(*_PATHS):
            return False
        key = form.offset("Key")
        assert key is not None
        return self._pages.number(address + key, 4) == int.from_bytes(TYPE_TAG, "little")

    def _fits_index_table(self, form: Struct) -> bool:
        """Where the type of types is missing others tell: each bears the number at which the kernel's table has it."""
        table = self._kernel.find_symbol("ObTypeIndexTable")
        place = form.offset("Index") if form.has(*_PATHS) else None
        if table is None or place is None:
            return False
        numbered = enumerate(self._read_index_table(table.address), _FIRST_INDEX)
        told = [(index, self._pages.number(address + place, 1)) for index, address in numbered]
        fitting = sum(index == number for index, number in told)
        return fitting >= _FEW_TYPES and all(number in (index, None) for index, number in told)

    def _find_addresses(self, type_of_types: int) -> Tuple[List[int], str, bool]:
        table = self._kernel.find_symbol("ObTypeIndexTable")
        if table is not None:
            found = self._read_index_table(table.address)
            if type_of_types in found:
                return found, "ObTypeIndexTable", True
            self._warnings.append("object types: the kernel's index table does not hold the type of types")
        return self._walk_type_list(type_of_types)

    def _read_index_table(self, address: int) -> List[int]:
        width = self._kernel.target.pointer_size
        found: List[int] = []
        for index in range(_FIRST_INDEX, _MAX_TYPES):
            pointer = self._pages.pointer(address + index * width)
            if not pointer:
                break
            found.append(pointer)
        return found

    def _walk_type_list(self, type_of_types: int) -> Tuple[List[int], str, bool]:
        """The types whose creator parts the type of types links."""
        form, width = self._form, self._kernel.target.pointer_size
        assert form is not None
        start = form.offset("TypeList")
        assert start is not None
        distance = 4 * width + self._headers.body_offset
        try:
            walk = walk_list(self._pages.read, width, type_of_types + start, 4 * _MAX_TYPES)
        except MemoryReadError:
            return [type_of_types], "ObpTypeObjectType", False
        found = [link + distance for link in walk.entries]
        if type_of_types not in found:
            found.insert(0, type_of_types)
        if walk.torn_at is None:
            return found, "TypeList", True
        self._warnings.append(f"object types: their list is torn at 0x{walk.torn_at:x} ({walk.reason})")
        return found, "TypeList", False

    def _find_cookie(self, types: List[ObjectType]) -> None:
        """The cookie by which the headers of all type objects name the type of types; the symbol's, if that agrees."""
        headers = self._headers
        if not headers.is_encoded:
            return
        index = next((kind.index for kind in types if kind.tag.raw == TYPE_TAG), _FIRST_INDEX)
        votes = Counter(
            byte ^ index
            for byte in (headers.index_byte(kind.address - headers.body_offset) for kind in types)
            if byte is not None
        )
        symbol = self._kernel.find_symbol("ObHeaderCookie")
        told = None if symbol is None else self._pages.number(symbol.address, 1)
        if votes:
            cookie, count = votes.most_common(1)[0]
            if 2 * count > sum(votes.values()):
                if told is not None and told != cookie:
                    self._warnings.append("object types: nt!ObHeaderCookie does not fit the headers of the types")
                headers.cookie = cookie
                return
            self._warnings.append("object types: no cookie fits the headers of the types")
            return
        headers.cookie = told
