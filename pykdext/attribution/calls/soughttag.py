"""A tag that is looked for among the arguments of calls, in all forms that it can have there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import FrozenSet, Iterator, Sequence, Tuple

from pykdext.attribution.calls.codereader import TAG_MASK
from pykdext.attribution.calls.wrappers import MAX_STRUCTURE_BYTES
from pykdext.attribution.flow.values import UNKNOWN, Atom, Constant, ImageRead, Value
from pykdext.attribution.places.tagencodings import TAG_BYTES
from pykdext.images.image import Image
from pykdext.model import PoolTag


@dataclass(frozen=True)
class SoughtTag:
    """The tag in all forms that an argument can have. ``aliases``: what else means the tag in one function."""

    tag: PoolTag
    variables: FrozenSet[int]
    aliases: FrozenSet[Atom] = frozenset()

    def find_sources(self, value: Value) -> Sequence[Atom]:
        """The possibilities of ``value`` that are the tag. Asked of every argument: most are not known."""
        if value is UNKNOWN:
            return ()
        number, variables, aliases = self._number, self.variables, self.aliases
        return [
            atom
            for atom in value
            if (isinstance(atom, Constant) and atom.number & TAG_MASK == number)
            or (isinstance(atom, ImageRead) and atom.rva in variables and atom.size >= TAG_BYTES)
            or (aliases and atom in aliases)
        ]

    def find_members(self, address: Atom, image: Image) -> Iterator[Tuple[int, int]]:
        """The variables with the tag in a structure of the image at ``address``, each with its place there."""
        rva = address.number - image.module.base if isinstance(address, Constant) else -1
        if 0 <= rva < image.size:
            near = (variable for variable in self.variables if 0 <= variable - rva < MAX_STRUCTURE_BYTES)
            yield from ((variable, variable - rva) for variable in near)

    def name_in(self, text: str, source: Atom) -> str:
        """``text`` of an instruction with the tag instead of its number."""
        return text.replace(f"0x{source.number:x}", repr(self.tag.text)) if isinstance(source, Constant) else text

    @cached_property
    def _number(self) -> int:
        return self.tag.key & TAG_MASK
