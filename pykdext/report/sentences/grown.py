"""What is said of the owner of a tag that grew: the same words for two states and for a series."""

from __future__ import annotations

from typing import List, Optional

from pykdext.model import Conclusion, GrownTag, LockstepGroup, Role
from pykdext.report.sentences.owners import NO_IMAGES, name_owners
from pykdext.units import count_things


def say_owner(grown: GrownTag, conclusion: Conclusion) -> str:
    """The end of the sentence, with its full stop: who allocates the tag, or why that is not known."""
    if grown.role is Role.OBJECT:
        return ". Windows allocates it for somebody who does not let go: the tag names the victim."
    if grown.role.tells_no_caller:
        return ". The caller is not told by this tag: any driver may have it."
    if grown.owners:
        return f"; {name_owners(grown.owners, with_grade=False)} allocates it ({grown.owners[0].confidence.value})."
    if conclusion.image_coverage is not None:
        return ". No driver in memory could be tied to it."
    return f". {NO_IMAGES}"


def say_holder(grown: GrownTag, conclusion: Conclusion) -> str:
    """One more sentence where its blocks grew along with those of a tag that names a driver."""
    group = next((group for group in conclusion.groups if _find(group, grown)), None)
    if group is None:
        return ""
    members = [item for item in conclusion.grown if item != grown and _find(group, item)]
    holder = _choose_holder(group, members)
    if holder is None or (grown.role is Role.CAUSE and holder.role is not Role.CAUSE):
        return ""
    blocks = count_things(holder.blocks, "block") if holder.blocks else "the blocks"
    owner = f"which {name_owners(holder.owners)} allocates" if holder.owners else "whose driver is not known"
    return f" It grew along with {blocks} of {holder.tag}, {owner}: one cause holds both."


def _choose_holder(group: LockstepGroup, members: List[GrownTag]) -> Optional[GrownTag]:
    """The member that names who holds the others: of a foreign driver, else the one that the frees point at."""
    callers = [item for item in members if not item.role.tells_no_caller]
    causes = [item for item in callers if item.role is Role.CAUSE]
    seldom = {(member.tag, member.pool) for member in group.members if member.role is Role.CAUSE}
    return next(iter([*causes, *(item for item in callers if (item.tag, item.pool) in seldom)]), None)


def _find(group: LockstepGroup, grown: GrownTag) -> bool:
    return any((member.tag, member.pool) == (grown.tag, grown.pool) for member in group.members)
