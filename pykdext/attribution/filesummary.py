"""What was found in a driver file, kept for all tags: most tags stand in few of a folder's files.

A summary tells of a tag that a search of the file would find nothing of it: its bytes are not in the file, no
instructions put it together, no function that calls an allocator holds numbers that it can be made of, and the
framework (KMDF) makes it of no name. Such a file is read, but not taken apart again. Where a summary cannot tell that
surely, the file is searched.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Collection, FrozenSet, Iterable, List, Optional, Set, Tuple

from pykdext.attribution.calls.allocators import allocator_names
from pykdext.attribution.calls.codereader import TAG_MASK, Makers, Numbers
from pykdext.attribution.calls.processors import PROCESSORS
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.frameworkdrivers import may_be_default_tag
from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.index import ModuleIndex
from pykdext.attribution.places.tagencodings import TAG_BYTES, canonical, is_plausible
from pykdext.model import ImageVersion, Machine, Module, PoolTag

MAX_SUMMARISED_BYTES = 64 << 20
"""Larger files are searched each time."""

_FORM = 6
"""Of a summary; it changes with what a search finds."""


@dataclass(frozen=True)
class FileSummary:
    """One driver file as it was searched.

    Attributes:
        module: its name and addresses, without a path. version: its version resource. present_bytes of expected_bytes
        were searched. warnings: of the file, whatever the tag. words: the tags that its instructions and data may
        hold. callers: the numbers of each function that may make a tag of them.
    """

    machine: Machine
    module: Module
    version: ImageVersion
    present_bytes: int
    expected_bytes: int
    warnings: Tuple[str, ...]
    words: FrozenSet[bytes]
    callers: Tuple[Numbers, ...]

    def find_absent(self, tags: Iterable[PoolTag], content: bytes) -> Set[PoolTag]:
        """Those of ``tags`` of which a search would find nothing in the file, which has this ``content``."""
        asked = {tag for tag in tags if is_plausible(tag.raw) and not self._may_hold(tag)}
        forms = {canonical(form): tag for tag in asked for form in (tag.raw, tag.raw[::-1])}
        seen = {forms[form] for _, form in ExactSearch(forms).iter_offsets(content)} if forms else set()
        return {tag for tag in asked - seen if not self._can_make(tag.key & TAG_MASK)}

    def _may_hold(self, tag: PoolTag) -> bool:
        forms = {canonical(tag.raw), canonical(tag.raw[::-1])}
        return not forms.isdisjoint(self.words) or may_be_default_tag(self.module.name, tag)

    def _can_make(self, number: int) -> bool:
        return bool(self._makers.find(number))

    @cached_property
    def _makers(self) -> Makers:
        return PROCESSORS[self.machine].open_makers(self.callers)


def summarise_file(found: ModuleIndex, code: CodeAttributor) -> Optional[FileSummary]:
    """What an image of a file told; None where the search was not whole."""
    image = found.image
    if found.reason is not None or found.is_cut:
        return None
    return FileSummary(
        image.machine,
        replace(image.module, path=""),
        found.version,
        found.present_bytes,
        found.expected_bytes,
        code.list_lasting_warnings(image),
        found.words,
        code.read_callers(image),
    )


def identify_file(name: str, content: bytes) -> bytes:
    """The key of a file's summary: its bytes, the name that says whose it is, and what this program knows."""
    facts = (_FORM, name.lower(), allocator_names())
    return hashlib.sha256(repr(facts).encode() + content).digest()


def pack_summary(summary: FileSummary) -> bytes:
    """The summary as bytes, to be kept."""
    module, version = summary.module, summary.version
    callers = [numbers.packed for numbers in summary.callers]
    facts = [
        summary.machine.value,
        [module.name, module.base, module.size, module.timestamp, module.checksum],
        {**vars(version), "built_at": version.built_at.timestamp() if version.built_at else None},
        [summary.present_bytes, summary.expected_bytes],
        summary.warnings,
        len(summary.words),
        list(map(len, callers)),
    ]
    return b"\n".join((json.dumps(facts).encode(), b"".join((*sorted(summary.words), *callers))))


def parse_summary(kept: bytes) -> Optional[FileSummary]:
    """What :func:`pack_summary` gave; None if it is not that."""
    head, _, rest = kept.partition(b"\n")
    try:
        machine, module, version, sizes, warnings, words, lengths = json.loads(head)
        present_bytes, expected_bytes = _pair(*sizes)
        parse_numbers = PROCESSORS[Machine(machine)].parse_numbers
        name, base, size, timestamp, checksum = module
        if _pair(words, 0)[0] > len(rest):
            return None
        pieces = _cut(rest, [TAG_BYTES] * words + lengths)
        return FileSummary(
            Machine(machine),
            Module(_text(name), *_pair(base, size), "", timestamp, checksum),
            ImageVersion(**{**version, "built_at": _time(version["built_at"])}),
            present_bytes,
            expected_bytes,
            tuple(map(_text, warnings)),
            frozenset(pieces[:words]),
            tuple(map(parse_numbers, pieces[words:])),
        )
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def _pair(first: Any, second: Any) -> Tuple[int, int]:
    if not all(isinstance(value, int) and value >= 0 for value in (first, second)):
        raise ValueError
    return first, second


def _time(seconds: Optional[float]) -> Optional[datetime]:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _cut(data: bytes, lengths: Collection[int]) -> Tuple[bytes, ...]:
    """``data`` in pieces of these lengths."""
    if sum(lengths) != len(data) or min(lengths, default=0) < 0:
        raise ValueError
    pieces: List[bytes] = []
    start = 0
    for length in lengths:
        pieces.append(data[start : start + length])
        start += length
    return tuple(pieces)
