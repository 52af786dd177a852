"""The symbols of one image, searched along a symbol path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import List, Optional, Protocol, Tuple

from pykdext.errors import SymbolFileError
from pykdext.symbols.chain import SymbolSource
from pykdext.symbols.folders import compressed_name, find_inside, list_isf_files, store_parts
from pykdext.symbols.identity import PdbName
from pykdext.symbols.isf import is_isf_head, load_isf, read_json_text
from pykdext.symbols.msf import MAGIC, describe_head
from pykdext.symbols.pdbfile import load_pdb
from pykdext.symbols.symbolpath import StoreChain, is_server, parse_symbol_path

_CABINET_MAGIC = b"MSCF"
_HEAD_BYTES = 64

_FILE_NAME = re.compile(r'[^\x00-\x1f<>:"/\\|?*]{1,128}')
_OTHER_SYSTEMS_FOLDER = re.compile(r"[A-Za-z]:|\\\\")
"""A folder of Windows; on another system it would become a file of a strange name in the current folder."""


class SymbolFile(SymbolSource, Protocol):
    """A file of symbols: it knows functions by their addresses, too."""

    def find_function(self, address: int) -> Optional[Tuple[str, int]]:
        """The name that stands at an address or next before it, and the bytes from there; None if none is known."""


@dataclass(frozen=True)
class LoadedSymbols:
    """What was found along a symbol path.

    Attributes:
        sources: a PDB, an ISF file, both or none, in the order of the path.
        notes: what was refused, could not be had or was not found, one line each.
        refused: those of the notes that are on files with the name that was looked for.
    """

    sources: Tuple[SymbolFile, ...]
    notes: Tuple[str, ...]
    refused: Tuple[str, ...] = ()


def load_symbols(pdb: PdbName, base: int, symbol_path: str, folder: Optional[str] = None) -> LoadedSymbols:
    """The symbols of the image at ``base`` along ``symbol_path``; what goes wrong becomes a note, never an error.

    ``pdb`` is the identity in the image's RSDS record; its name may come with a folder. ``folder``, that of the image,
    is looked into before the path, for this PDB alone. The network is used only for a server that the path names, and
    only while nothing to its left has the symbols.
    """
    file_name = re.split(r"[\\/]", pdb.file_name)[-1]
    if not _FILE_NAME.fullmatch(file_name) or not file_name.strip(". "):
        return LoadedSymbols(
            (), (f"symbols of an image: found {pdb.file_name!r:.80}, expected the file name of a PDB",)
        )
    search = _Search(PdbName(file_name, pdb.guid.upper(), pdb.age), base)
    if folder is not None:
        search.look_beside(folder)
    for element in parse_symbol_path(symbol_path):
        if isinstance(element, StoreChain):
            search.ask_stores(element)
        else:
            search.look_at(element.path)
    return search.finish()


class _Search:
    """One walk along a symbol path. It ends with the first PDB and the first ISF file that are of the right build."""

    def __init__(self, wanted: PdbName, base: int) -> None:
        self._wanted = wanted
        self._base = base
        self._sources: List[SymbolFile] = []
        self._notes: List[str] = []
        self._refused: List[str] = []
        self._visited: List[str] = []

    def look_beside(self, folder: str) -> None:
        """The folder of the image: linkers write the PDB there."""
        self._look_for_pdb(folder, (self._wanted.file_name,))

    def look_at(self, path: str) -> None:
        """A plain element of the path: a file, or a folder with PDBs, a store's folders, ISF files, or all of them."""
        if os.path.isdir(path):
            self._look_for_pdb(path, store_parts(path, self._wanted))
            self._look_for_pdb(path, (self._wanted.file_name,))
            self._look_for_isf(path)
        elif os.path.exists(path):
            self._visited.append(path)
            self._load(path)
        else:
            self._visited.append(f"{path} (not there)")

    def ask_stores(self, chain: StoreChain) -> None:
        """Every store in turn, until one has the PDB."""
        for store in chain.stores:
            if is_server(store):
                self._ask_server(store, chain.cache)
            else:
                self._look_for_pdb(store, store_parts(store, self._wanted))

    def finish(self) -> LoadedSymbols:
        """What was found; if nothing was, one more note tells where it was looked for."""
        if self._visited and not self._sources:
            places = ", ".join(self._visited)
            self._notes.append(f"{self._wanted.file_name} {self._wanted.identity}: not found; looked for {places}")
        return LoadedSymbols(tuple(self._sources), tuple(self._notes), tuple(self._refused))

    def _has(self, kind: str) -> bool:
        return any(source.name == kind for source in self._sources)

    def _look_for_pdb(self, folder: str, parts: Tuple[str, ...]) -> None:
        if self._has("pdb"):
            return
        self._visited.append(os.path.join(folder, *parts))
        path = find_inside(folder, *parts) or find_inside(folder, *parts[:-1], compressed_name(parts[-1]))
        if path is not None:
            known = len(self._notes)
            self._load(path)
            self._refused += self._notes[known:]

    def _look_for_isf(self, folder: str) -> None:
        if self._has("isf"):
            return
        listing = list_isf_files(folder, self._wanted.guid)
        self._visited.append(
            f"ISF files below {folder}" if listing.is_complete else f"the first ISF files below {folder}"
        )
        for path in listing.named:
            if not self._has("isf"):
                self._load(path)
        for path in listing.unnamed:
            if not self._has("isf") and _mentions(path, self._wanted.guid):
                self._load(path)

    def _ask_server(self, server: str, cache: Optional[str]) -> None:
        if self._sources:
            return
        from pykdext.symbols.download import download_pdb, render_url  # urllib costs time, and few runs need it

        self._visited.append(render_url(server, self._wanted))
        if cache is None:
            self._notes.append(f"{server}: found no folder to keep files in, expected srv*FOLDER*{server}")
        elif os.name != "nt" and _OTHER_SYSTEMS_FOLDER.match(cache):
            self._notes.append(f"{cache}: found a folder of Windows, expected one of this system to keep files in")
        else:
            try:
                self._load(download_pdb(server, self._wanted, cache))
            except SymbolFileError as error:
                self._notes.append(str(error))

    def _load(self, path: str) -> None:
        """The symbols in a file, by its content, unless such a source is there already; a refusal is noted."""
        try:
            source = self._open_source(path)
        except SymbolFileError as error:
            self._notes.append(str(error))
        else:
            if not self._has(source.name):
                self._sources.append(source)

    def _open_source(self, path: str) -> SymbolFile:
        if os.path.exists(path) and not os.path.isfile(path):
            raise SymbolFileError(path, "a pipe, device or folder", "a PDB or ISF file")
        try:
            with open(path, "rb") as file:
                head = file.read(_HEAD_BYTES)
        except OSError as error:
            raise SymbolFileError(path, f"a file that cannot be read ({error.strerror})", "a PDB or ISF file") from None
        if head.startswith(MAGIC):
            return load_pdb(path, self._wanted, self._base)
        if is_isf_head(head):
            return load_isf(path, self._wanted, self._base)
        if head.startswith(_CABINET_MAGIC):
            hint = f"unpack it with 'expand {os.path.basename(path)} {self._wanted.file_name}'"
            raise SymbolFileError(path, "a compressed file (cabinet)", "a PDB or ISF file", hint)
        raise SymbolFileError(path, describe_head(head), "a PDB or ISF file")


def _mentions(path: str, guid: str) -> bool:
    """Whether an ISF file without a GUID in its name is worth loading: its text holds the GUID."""
    try:
        return guid.encode() in read_json_text(path).upper()
    except SymbolFileError:
        return False
