"""A chain of symbol sources: the first that knows a name answers, and the answer says who it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Protocol, Sequence

from pykdext.symbols.profiles import KernelProfile


class SymbolSource(Protocol):
    """Somebody who may know where kernel variables are. ``name`` is the word the report uses for it."""

    @property
    def name(self) -> str:
        """One word: ``target``, ``profile``, ``inference``."""

    def find_address(self, symbol: str) -> Optional[int]:
        """Address of a variable of nt, or None."""


@dataclass(frozen=True)
class LocatedSymbol:
    """An address and the name of the source that gave it."""

    address: int
    source: str


class ProfileSymbols:
    """The addresses of a known kernel, loaded at ``base``."""

    name = "profile"

    def __init__(self, profile: KernelProfile, base: int) -> None:
        self._profile = profile
        self._base = base

    def find_address(self, symbol: str) -> Optional[int]:
        """Base plus RVA, if the profile lists the variable."""
        rva = self._profile.rvas.get(symbol)
        return None if rva is None else self._base + rva


class SymbolChain:
    """Asks its sources in order."""

    def __init__(self, sources: Sequence[SymbolSource]) -> None:
        self._sources = tuple(sources)

    def find(self, symbol: str) -> Optional[LocatedSymbol]:
        """The first answer and who gave it; None if nobody knows."""
        for source in self._sources:
            address = source.find_address(symbol)
            if address is not None:
                return LocatedSymbol(address, source.name)
        return None
