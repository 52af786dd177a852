"""volatility3's intermediate symbol files (ISF): a PDB's addresses and types as JSON, bare or in xz or gzip.

Source: volatility3's published schema of the format (versions 4 to 6).
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Dict, Mapping, Optional, Tuple

from pykdext.errors import SymbolFileError
from pykdext.model import FieldLayout, TypeLayout
from pykdext.symbols.codenames import CodeName, CodeNames
from pykdext.symbols.identity import PdbName, render_identity

SUFFIXES = (".json", ".json.xz", ".json.gz")
_XZ_MAGIC = b"\xfd7zXZ\0"
_GZIP_MAGIC = b"\x1f\x8b"
_GUID = re.compile("[0-9A-Fa-f]{32}")

MAX_JSON_BYTES = 64 << 20
"""The JSON of a kernel has 3 to 7 MB."""


class IsfSymbols:
    """The symbols of one file for an image loaded at ``base``.

    Attributes:
        path: the file.
    """

    name = "isf"

    def __init__(self, path: str, base: int, document: Mapping[str, Any]) -> None:
        self.path = path
        self._base = base
        self._document = document

    def find_address(self, symbol: str) -> Optional[int]:
        """Base plus RVA of a symbol. SymbolFileError if damaged."""
        entry = self._entry("symbols", symbol)
        return None if entry is None else self._base + self._number(entry, "address")

    def find_type(self, type_name: str) -> Optional[TypeLayout]:
        """Size and fields of a structure or union. SymbolFileError if damaged.

        A bit field has the offset and size of the unit that holds it.
        """
        entry = self._entry("user_types", type_name)
        if entry is None:
            return None
        fields: Dict[str, FieldLayout] = {}
        for name, field in self._part(entry, "fields").items():
            fields[name] = self._describe(self._number(field, "offset"), self._part(field, "type"))
        return TypeLayout(self._number(entry, "size"), fields)

    def find_enumeration(self, type_name: str) -> Optional[Dict[str, int]]:
        """The enumerators of an enumeration and their values. SymbolFileError if damaged."""
        entry = self._entry("enums", type_name)
        if entry is None:
            return None
        constants = self._part(entry, "constants")
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in constants.values()):
            raise SymbolFileError(self.path, f"no numbers in {type_name:.60}", "a number for each enumerator")
        return dict(constants)

    def find_function(self, address: int) -> Optional[Tuple[str, int]]:
        """The nearest symbol at or before an address and the bytes from there. SymbolFileError if damaged.

        The format tells neither code from data nor where code ends.
        """
        return self._names.find(address - self._base)

    @cached_property
    def _names(self) -> CodeNames:
        symbols = self._part(self._document, "symbols")
        return CodeNames(CodeName(self._number(self._part(symbols, name), "address"), name) for name in symbols)

    def _describe(self, offset: int, described: Mapping[str, Any]) -> FieldLayout:
        """A field of a type; its size is None where that has none (functions, types that are only announced)."""
        count = bits = type_name = None
        while described.get("kind") in ("array", "bitfield"):
            if described["kind"] == "array":
                count = (1 if count is None else count) * self._number(described, "count")
                described = self._part(described, "subtype")
            else:
                bits = (self._number(described, "bit_position"), self._number(described, "bit_length"))
                described = self._part(described, "type")
        kind = described.get("kind")
        if kind == "pointer":
            entry = self._entry("base_types", "pointer")
        elif kind in ("struct", "union", "class"):
            type_name = described.get("name")
            entry = self._entry("user_types", type_name)
        else:
            entry = self._entry("enums" if kind == "enum" else "base_types", described.get("name"))
        if entry is None:
            return FieldLayout(offset, None, bits, None, count)
        size = self._number(entry, "size") * (1 if count is None else count)
        return FieldLayout(offset, size, bits, type_name, count)

    def _entry(self, table: str, name: object) -> Optional[Mapping[str, Any]]:
        rows = self._part(self._document, table)
        return self._part(rows, name) if isinstance(name, str) and name in rows else None

    def _part(self, whole: Any, name: str) -> Mapping[str, Any]:
        return _part(self.path, whole, name)

    def _number(self, whole: Mapping[str, Any], name: str) -> int:
        value = whole.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
            raise SymbolFileError(self.path, f"{value!r:.40} as {name}", "a number of at most 32 bits")
        return value


def load_isf(path: str, wanted: PdbName, base: int) -> IsfSymbols:
    """The symbols in the file at ``path``.

    Raises:
        SymbolFileError: it is no ISF file, is damaged, or belongs to another build than ``wanted``.
    """
    document = _parse_json(path, read_json_text(path))
    pdb = document
    for name in ("metadata", "windows", "pdb"):
        pdb = _part(path, pdb, name)
    guid, age = pdb.get("GUID"), pdb.get("age")
    if not isinstance(guid, str) or not _GUID.fullmatch(guid) or not isinstance(age, int):
        raise SymbolFileError(path, f"GUID {guid!r:.40} age {age!r:.40}", wanted.identity)
    if (guid.upper(), age) != (wanted.guid, wanted.age):
        raise SymbolFileError(path, render_identity(guid.upper(), age), wanted.identity)
    for table in ("symbols", "user_types", "enums", "base_types"):
        _part(path, document, table)
    return IsfSymbols(path, base, document)


def is_isf_head(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be an ISF file."""
    return head.startswith((_XZ_MAGIC, _GZIP_MAGIC)) or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def read_json_text(path: str) -> bytes:
    """The bytes of the JSON text, unpacked.

    Raises:
        SymbolFileError: the file cannot be read, its compression is damaged, or it is larger than any real one.
    """
    import gzip  # these modules cost time, and few runs need them
    import lzma
    import zlib

    try:
        with open(path, "rb") as file:
            head = file.read(len(_XZ_MAGIC))
        is_xz, is_gzip = head.startswith(_XZ_MAGIC), head.startswith(_GZIP_MAGIC)
        with lzma.open(path) if is_xz else gzip.open(path) if is_gzip else open(path, "rb") as unpacked:
            text = unpacked.read(MAX_JSON_BYTES + 1)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise SymbolFileError(path, f"damaged compression ({error})", "a whole ISF file") from error
    except OSError as error:
        raise SymbolFileError(path, f"a file that cannot be read ({error.strerror})", "an ISF file") from error
    if len(text) > MAX_JSON_BYTES:
        raise SymbolFileError(path, f"more than {MAX_JSON_BYTES} bytes", "the JSON of one kernel's symbols")
    return text


def _parse_json(path: str, text: bytes) -> Mapping[str, Any]:
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SymbolFileError(path, f"no JSON ({error})", "an ISF file") from None
    return document if isinstance(document, dict) else {}


def _part(path: str, whole: Any, name: str) -> Mapping[str, Any]:
    part = whole.get(name) if isinstance(whole, dict) else None
    if not isinstance(part, dict):
        raise SymbolFileError(path, f"no {name!r:.60}", "the parts of an ISF file (metadata, symbols, user_types)")
    return part
