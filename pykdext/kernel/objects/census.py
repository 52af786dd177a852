"""What the handles of a process lead to: by type, the zombies among them, and the key or file most of them are of.

All handles of a table are read; of large tables the objects of a sample that is spread over the whole table are looked
at, each page of them once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from pykdext.kernel.objects.contents import ContentsReader
from pykdext.kernel.objects.handletables import HandleTableReader
from pykdext.kernel.objects.headers import HeaderReader
from pykdext.kernel.objects.objecttypes import TypeTable
from pykdext.model.objects import CommonTarget, HandleCensus, Process, TypeShare
from pykdext.work import UNWATCHED, Work

ALL_BELOW = 50_000
"""The objects of all handles are looked at where there are less."""

SAMPLE = 8_192
_TARGET_TYPES = ("Key", "File")
_COMMON_SHARE = 0.5


class CensusTaker:
    """Looks through the handles of processes of one kernel."""

    def __init__(
        self, tables: HandleTableReader, headers: HeaderReader, types: TypeTable, contents: ContentsReader
    ) -> None:
        self._tables = tables
        self._headers = headers
        self._types = types
        self._contents = contents

    def take(self, process: Process, zombies: Mapping[int, Process], work: Work = UNWATCHED) -> HandleCensus:
        """The handles of one process. ``zombies``: exited processes by the address of their object's header."""
        if process.handle_table is None:
            return HandleCensus(process, None, 0, 0, 0, 0, ())
        found = self._tables.read_whole(process.handle_table, process.handles, work)
        headers = found.headers
        sample = _choose_sample(headers)
        by_type, unknown = self._group(sample)
        scale = len(headers) / len(sample) if sample else 1.0
        shares = tuple(
            TypeShare(name, round(len(members) * scale))
            for name, members in sorted(by_type.items(), key=lambda item: (-len(item[1]), item[0]))
        )
        held = [zombies[header] for header in headers if header in zombies] if zombies else []
        images = Counter(zombie.image for zombie in {zombie.address: zombie for zombie in held}.values())
        return HandleCensus(
            process=process,
            counted=process.handles,
            read=len(headers),
            pages_read=found.pages_read,
            pages_expected=found.pages_expected,
            sampled=len(sample),
            types=shares,
            unknown=round(unknown * scale),
            common_target=self._find_common(by_type),
            zombies=len(held),
            zombie_images=tuple(images.most_common()),
            warnings=tuple(f"{process.label}: {warning}" for warning in found.warnings),
        )

    def _group(self, sample: Sequence[int]) -> Tuple[Dict[str, List[int]], int]:
        """The sampled headers by the name of their type, and how many could not be told."""
        groups: Dict[str, List[int]] = {}
        unknown = 0
        for header in sorted(sample):
            read = self._headers.read(header)
            kind = None
            if read is not None:
                kind = self._types.of_header(read.type_index, read.type_address)
            if kind is None:
                unknown += 1
                continue
            groups.setdefault(kind.label, []).append(header)
        return groups, unknown

    def _find_common(self, groups: Mapping[str, List[int]]) -> Optional[CommonTarget]:
        """The key or file that at least half of the handles to keys or files lead to."""
        best: Optional[CommonTarget] = None
        for name in _TARGET_TYPES:
            members = groups.get(name, [])
            if len(members) < 2:
                continue
            names = [self._contents.target_name(name, header + self._headers.body_offset) for header in members]
            counted = Counter(target for target in names if target is not None)
            if not counted:
                continue
            target, count = counted.most_common(1)[0]
            if count >= _COMMON_SHARE * len(members) and (best is None or count > best.handles):
                best = CommonTarget(name, target, count, len(members))
        return best


def _choose_sample(headers: array[int]) -> Sequence[int]:
    """All of them, or so many spread over the whole table."""
    if len(headers) < ALL_BELOW:
        return headers
    step = len(headers) / SAMPLE
    return [headers[int(number * step)] for number in range(SAMPLE)]
