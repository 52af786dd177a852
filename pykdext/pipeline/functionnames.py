"""Names of the functions that evidence stands in: by symbols, else by exports, else the image's entry point."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Callable, Dict, Iterable, List, Optional, Tuple

from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.errors import SymbolFileError
from pykdext.images.image import Image
from pykdext.model import Confidence, Evidence
from pykdext.targets.protocol import AddressNamer, Target

MAX_NAMED = 8
"""Places of one module that are named for one tag, the first ones; texts show fewer."""

MAX_DISTANCE_BYTES = 1 << 16
"""Where the function's beginning is not known, a symbol farther before the place says nothing about it."""

MAX_NAMED_MODULES = 16
"""Modules whose symbols are asked for in one run, the first ones: each may cost a download."""

MAX_VAIN_SECONDS = 5.0
"""A symbol path that was walked in vain for longer is given up: its server is silent, or its folders are slow."""

MAX_NAME_CHARACTERS = 200
"""Longer ones (of C++ templates) are cut."""

ENTRY_POINT = "entry point"

_FindSymbol = Callable[[int], Optional[Tuple[str, int]]]
"""The name at an address or next before it, and the bytes from there."""


class FunctionNames:
    """Names places in the code of indexed images.

    Of images that are no part of Windows the target's own symbols are asked if it has any, else files: beside the image
    (``folder``) and along ``symbol_path``; nothing is read before evidence needs it.

    Attributes:
        warnings: files of symbols that could not be used, one line each.
    """

    def __init__(
        self, index: ImageIndex, target: Target, code: CodeAttributor, symbol_path: str, folder: Optional[str]
    ) -> None:
        self.warnings: List[str] = []
        self._images = {entry.image.module.name: entry.image for entry in index.modules}
        self._target = target
        self._code = code
        self._symbol_path = symbol_path
        self._folder = folder
        self._symbols: Dict[str, Tuple[_FindSymbol, ...]] = {}

    def add_to(self, evidence: Iterable[Evidence]) -> Tuple[Evidence, ...]:
        """The evidence of one tag, with the functions that the first likely or proven places of each module are in."""
        named: Counter[str] = Counter()
        items: List[Evidence] = []
        for item in evidence:
            function = None
            image = self._images.get(item.module)
            if image is not None and item.rva is not None and item.confidence is not Confidence.POSSIBLE:
                named[item.module] += 1
                if named[item.module] <= MAX_NAMED:
                    function = self._name_place(image, item.rva)
            items.append(replace(item, function=function))
        return tuple(items)

    def _name_place(self, image: Image, rva: int) -> Optional[str]:
        """``PippoSubmit+0x2a``; the name alone for code that the linker put elsewhere; None if nothing names it."""
        section = next((part for part in image.sections if part.rva <= rva < part.rva + part.size), None)
        if section is None or section.holds_data:
            return None
        followed = self._code.open_followed(image)
        bounds = followed.find_bounds(rva)
        if bounds is None:
            found = self._find_symbol(image, rva, max(section.rva, rva - MAX_DISTANCE_BYTES))
            return None if found is None else _render(*found)
        start_rva = bounds.start_rva
        is_apart = not any(start == start_rva and rva < end for start, end in bounds.ranges)
        found = self._find_symbol(image, start_rva if is_apart else rva, start_rva)
        if found is None:
            name = followed.find_name(start_rva) or (ENTRY_POINT if start_rva == image.entry_rva else None)
            found = None if name is None else (name, rva - start_rva)
        return None if found is None else _render(found[0], 0 if is_apart else found[1])

    def _find_symbol(self, image: Image, rva: int, first_rva: int) -> Optional[Tuple[str, int]]:
        """The name next before ``rva``, not before ``first_rva``, and the bytes from there."""
        if self._code.is_part_of_windows(image):
            return None
        name = image.module.name
        if name not in self._symbols:
            self._symbols[name] = self._load_symbols(image)
        for find_symbol in self._symbols[name]:
            try:
                found = find_symbol(image.module.base + rva)
            except SymbolFileError as error:
                self.warnings.append(str(error))
                self._symbols[name] = tuple(other for other in self._symbols[name] if other is not find_symbol)
            else:
                if found is not None and rva - found[1] >= first_rva:
                    return found
        return None

    def _load_symbols(self, image: Image) -> Tuple[_FindSymbol, ...]:
        if len(self._symbols) >= MAX_NAMED_MODULES:
            return ()
        if isinstance(self._target, AddressNamer):
            return (self._target.find_name,)
        pdb = image.pdb
        if pdb is None:
            return ()
        if not self._symbol_path and self._folder is None:
            return ()
        from pykdext.symbols.search import load_symbols

        base = image.module.base
        started = time.monotonic()
        loaded = load_symbols(pdb, base, self._symbol_path, self._folder)
        if not loaded.sources and time.monotonic() - started > MAX_VAIN_SECONDS:
            self._symbol_path = ""
        self.warnings += loaded.refused
        return tuple(source.find_function for source in loaded.sources)


def _render(name: str, offset: int) -> str:
    cut = name[:MAX_NAME_CHARACTERS]
    return f"{cut}+0x{offset:x}" if offset else cut
