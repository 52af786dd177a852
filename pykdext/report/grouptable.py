"""Tags whose blocks agree in number, as a table."""

from __future__ import annotations

from typing import List, Optional

from pykdext.model import LockstepGroup, PoolSnapshot
from pykdext.report.layout import format_table, wrap
from pykdext.report.links import Links
from pykdext.report.markup import Line, link_cells, tint_cells
from pykdext.report.poolnames import label_pool
from pykdext.report.sentences.tones import tone_of_role
from pykdext.units import format_change, format_count, format_share

_HEADERS = ["Tag", "Type", "Blocks", "Ratio", "Freed", "Role"]


def group_lines(
    group: LockstepGroup,
    heading: str,
    width: int,
    links: Links,
    snapshot: Optional[PoolSnapshot] = None,
    *,
    have_grown: bool = True,
) -> List[Line]:
    """The members, the likeliest cause first, each with its role and the reason in one line.

    ``have_grown``: their blocks are by how many they grew, not how many there are. ``snapshot``: whose rows they are.
    """
    cells = [
        [
            member.tag.text,
            label_pool(member.pool, snapshot),
            format_change(member.blocks) if have_grown else format_count(member.blocks),
            f"x{member.ratio:.3f}",
            format_share(member.freed_share),
            f"{member.role.value}: {member.reason}",
        ]
        for member in group.members
    ]
    table = format_table(_HEADERS, cells, ["left", "left", "right", "right", "right", "left"])
    cut = [line[:width] for line in table]
    title = wrap(f"Group {group.number}: {heading}", width)
    linked = link_cells(cut, 0, [links.tag(member.tag) for member in group.members])
    return [*title, *tint_cells(linked, len(_HEADERS) - 1, [tone_of_role(member.role) for member in group.members])]
