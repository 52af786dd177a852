"""Instructions that read variables of an image, or take their addresses: how code gets at a tag that stands in data.

Code is not decoded from its start: the bytes of an operand tell the variable, those before it whether an instruction
that reads may end there. The last byte of the instruction before may be taken for a prefix of this one.
"""

from __future__ import annotations

from typing import Collection, Dict, FrozenSet, Iterator, Mapping, Set, Tuple

from pykdext.attribution.calls.codeindex import iter_operands
from pykdext.attribution.calls.codereader import Reference
from pykdext.images.image import Image

MAX_REFERENCES = 256
"""Instructions told for one variable."""


def is_written(image: Image, rva: int, size: int) -> bool:
    """Whether some instruction seems to store into the ``size`` bytes at ``rva``."""
    return any(True for _ in _iter_stores(image, frozenset(range(rva, rva + size))))


def find_writers(image: Image, rva: int) -> Tuple[int, ...]:
    """The RVAs of instructions that seem to store at ``rva``, ascending, the first ``MAX_REFERENCES``."""
    return tuple(sorted({reference.rva for reference in _iter_stores(image, frozenset({rva}))})[:MAX_REFERENCES])


def _iter_stores(image: Image, wanted: FrozenSet[int]) -> Iterator[Reference]:
    for code, operands in iter_operands(image):
        yield from operands.iter_stores(code, wanted)


def find_references(image: Image, rvas: Collection[int]) -> Mapping[int, Tuple[int, ...]]:
    """The RVAs of instructions that read what is at each of ``rvas`` or take its address, ascending.

    For ARM64 it is the instruction with the offset. At most ``MAX_REFERENCES`` are told for one variable; a variable
    without any is left out.
    """
    found: Dict[int, Set[int]] = {}
    wanted = frozenset(rvas)
    for code, operands in iter_operands(image) if wanted else ():
        for reference in operands.iter_references(code, wanted):
            places = found.setdefault(reference.variable, set())
            if len(places) < MAX_REFERENCES:
                places.add(reference.rva)
    return {variable: tuple(sorted(places)) for variable, places in found.items()}
