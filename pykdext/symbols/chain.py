"""A chain of symbol sources: the first that knows a name answers, and the answer says who it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Collection, List, Mapping, Optional, Protocol, Sequence, Tuple, TypeVar, runtime_checkable

from pykdext.errors import SymbolFileError
from pykdext.model import Struct, TypeLayout
from pykdext.model.layouts import make_struct
from pykdext.symbols.profiles import KernelProfile

_Answer = TypeVar("_Answer")


class SymbolSource(Protocol):
    """Somebody who may know where kernel variables are. ``name`` is the word the report uses for it."""

    @property
    def name(self) -> str:
        """One word: ``target``, ``pdb``, ``isf``, ``profile``, ``inference``."""

    def find_address(self, symbol: str) -> Optional[int]:
        """Address of a variable of nt, or None."""

    def find_type(self, type_name: str) -> Optional[TypeLayout]:
        """Layout of a structure of nt, or None."""


@runtime_checkable
class EnumerationSource(Protocol):
    """A source of symbols that knows enumerations, too: PDB and ISF files."""

    def find_enumeration(self, type_name: str) -> Optional[Mapping[str, int]]:
        """The value of each enumerator, or None."""


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

    def find_type(self, type_name: str) -> None:
        """None: a profile lists no types."""


class SymbolChain:
    """Asks its sources in order. One that turns out to be damaged is not asked again, and ``notes`` says so."""

    def __init__(self, sources: Sequence[SymbolSource]) -> None:
        self._sources = list(sources)
        self._notes: List[str] = []

    @property
    def notes(self) -> Tuple[str, ...]:
        """The damage met so far, one line each."""
        return tuple(self._notes)

    def find(self, symbol: str) -> Optional[LocatedSymbol]:
        """The first answer and who gave it; None if nobody knows."""

        def ask(source: SymbolSource) -> Optional[LocatedSymbol]:
            address = source.find_address(symbol)
            return None if address is None else LocatedSymbol(address, source.name)

        return self._first_answer(ask)

    def find_type(self, type_name: str) -> Optional[TypeLayout]:
        """The layout of a structure by the first source that knows it; None if nobody does."""
        return self._first_answer(lambda source: source.find_type(type_name))

    def find_enumeration(self, type_name: str) -> Optional[Mapping[str, int]]:
        """The enumerators of an enumeration by the first source that knows it; None if nobody does."""
        return self._first_answer(
            lambda source: source.find_enumeration(type_name) if isinstance(source, EnumerationSource) else None
        )

    def make_struct(
        self,
        type_name: str,
        paths: Collection[str],
        signed: Collection[str] = (),
        sizes: Optional[Mapping[str, int]] = None,
    ) -> Optional[Struct]:
        """The struct of some fields of a structure by the first source that knows its fields; None if nobody does.

        Raises:
            StructSizeError: that source gives a field another size than ``sizes`` says.
        """

        def ask(source: SymbolSource) -> Optional[Struct]:
            layout = source.find_type(type_name)
            if layout is None or not layout.fields:
                return None
            return make_struct(type_name, source.name, layout, paths, source.find_type, signed, sizes)

        return self._first_answer(ask)

    def _first_answer(self, ask: Callable[[SymbolSource], Optional[_Answer]]) -> Optional[_Answer]:
        for source in tuple(self._sources):
            try:
                answer = ask(source)
            except SymbolFileError as error:
                self._notes.append(str(error))
                self._sources.remove(source)
            else:
                if answer is not None:
                    return answer
        return None
