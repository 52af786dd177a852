"""The kernel of a target: its image, its symbols, and reads of its variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from pykdext.errors import MemoryReadError, SymbolNotFoundError
from pykdext.kernel.image import Image, PdbIdentity, read_image
from pykdext.symbols.chain import LocatedSymbol, ProfileSymbols, SymbolChain, SymbolSource
from pykdext.symbols.profiles import load_profile
from pykdext.targets.protocol import Target


class TargetSymbols:
    """What the target itself knows: the debugger's symbols, or a dump's debugger data block."""

    name = "target"

    def __init__(self, target: Target) -> None:
        self._target = target

    def find_address(self, symbol: str) -> Optional[int]:
        """The target's answer, or None."""
        try:
            return self._target.symbol(symbol)
        except SymbolNotFoundError:
            return None


@dataclass(frozen=True)
class Kernel:
    """A target seen as a Windows kernel.

    Attributes:
        target: where its memory is.
        nt: the kernel's image; None if no module could be found.
        symbols: who knows addresses.
    """

    target: Target
    nt: Optional[Image]
    symbols: SymbolChain

    @property
    def pdb(self) -> Optional[PdbIdentity]:
        """Identity of the kernel's symbols, from its debug directory; None if that is not in memory."""
        return None if self.nt is None else self.nt.pdb

    def read_images(self) -> List[Image]:
        """The images of all loaded modules, nt's among them."""
        loaded = [module for module in self.target.modules() if not module.unloaded]
        return [
            self.nt if self.nt is not None and module == self.nt.module else read_image(self.target, module)
            for module in loaded
        ]

    def find_symbol(self, name: str) -> Optional[LocatedSymbol]:
        """Where a variable of nt stands, by the first source of symbols that knows it."""
        return self.symbols.find(name)

    def read_pointer(self, address: int) -> int:
        """The pointer (or SIZE_T) at ``address``; MemoryReadError if it is not there."""
        return int.from_bytes(self.target.read_virtual(address, self.target.pointer_size), "little")

    def find_variable(self, name: str) -> Optional[int]:
        """The value of a pointer-sized variable; None if its address is not known or not in memory."""
        located = self.find_symbol(name)
        if located is None:
            return None
        try:
            return self.read_pointer(located.address)
        except MemoryReadError:
            return None


def open_kernel(target: Target) -> Kernel:
    """The kernel of ``target``, with every source of symbols that applies to it."""
    module = next((module for module in target.modules() if not module.unloaded), None)
    nt = None if module is None else read_image(target, module)
    sources: List[SymbolSource] = [TargetSymbols(target)]
    if nt is not None and nt.pdb is not None:
        profile = load_profile(nt.pdb.guid, nt.pdb.age)
        if profile is not None:
            sources.append(ProfileSymbols(profile, nt.module.base))
    return Kernel(target, nt, SymbolChain(sources))
