"""What the source itself says of a tag's driver: a hint that was printed beside the numbers, of whatever age."""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping

from pykdext.model import (
    Confidence,
    Evidence,
    EvidenceKind,
    PoolSnapshot,
    PoolTag,
    StatedDriver,
    TagClass,
    TagDescription,
)


def describe_stated(
    snapshot: PoolSnapshot, described: Mapping[PoolTag, TagDescription]
) -> Dict[PoolTag, TagDescription]:
    """``described``, and of tags for which no list names a driver the one that the source itself states.

    The tag of an object is nobody's own, whatever is printed beside it.
    """
    found = dict(described)
    for item in snapshot.stated_drivers:
        known = described.get(item.tag)
        if item.tag in found and (known is None or known.module or known.tag_class is TagClass.OBJECT):
            continue
        text = f"{Confidence.POSSIBLE.value} ({item.told_by})" + (f"; {known.text}" if known else "")
        found[item.tag] = TagDescription(item.tag.text, item.module, text, item.told_by)
    return found


class StatedAttributor:
    """Names the drivers that a snapshot's source names (``Binary: netio.sys``, poolmon's Mapped_Driver)."""

    name = "stated"

    def __init__(self, snapshot: PoolSnapshot) -> None:
        self._by_tag: Dict[PoolTag, List[StatedDriver]] = {}
        for item in snapshot.stated_drivers:
            self._by_tag.setdefault(item.tag, []).append(item)

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """One item for each driver that the source names for the tag."""
        for item in self._by_tag.get(tag, ()):
            detail = f"the source says so ({item.told_by}): {item.text}"
            yield Evidence(tag, item.module, EvidenceKind.STATED, Confidence.POSSIBLE, detail)
