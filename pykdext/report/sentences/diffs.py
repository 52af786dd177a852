"""What is said of the difference between two states."""

from __future__ import annotations

from typing import Sequence

from pykdext.model import Change, Conclusion, Diff, GrownTag, TagDelta
from pykdext.model.growth import say_restart
from pykdext.report.poolnames import name_pool
from pykdext.report.sentences.grown import say_holder, say_owner
from pykdext.report.sentences.states import COUNTS_NOT_KNOWN, count_read_tables, say_lacking_counts
from pykdext.units import count_things, format_bytes, format_duration


def verdict_on_diff(diff: Diff, asked: Sequence[TagDelta], conclusion: Conclusion) -> str:
    """What grew most, how fast, who owns it, or what holds it; that nothing did. ``asked``: the rows asked for."""
    if diff.lacks_counts:
        return f"{_say_lacking(diff)} {_verdict_on_part(diff, conclusion)}"
    if not diff.deltas:
        return "No tag differs."
    if not conclusion.grown:
        return _say_restart(diff) + _say_nothing_grew(diff, asked)
    return _say_restart(diff) + _say_most_grown(diff, conclusion) + _say_larger_unlisted(diff, asked, conclusion)


def _say_lacking(diff: Diff) -> str:
    """Which of the two states lacks tables, and what that means."""
    before, after = diff.before.coverage, diff.after.coverage
    if before.lacks_counts and after.lacks_counts:
        sides = f"Of the earlier state {count_read_tables(before)}, of the later one {count_read_tables(after)}"
        return f"{sides} could be read: {COUNTS_NOT_KNOWN}"
    name, lacking = ("earlier", before) if before.lacks_counts else ("later", after)
    return f"Of the {name} state {say_lacking_counts(lacking)}"


def _verdict_on_part(diff: Diff, conclusion: Conclusion) -> str:
    """What can be said all the same: a tag that grew by more than the missing tables explain."""
    if not conclusion.grown:
        return f"{_say_restart(diff)}No tag is said to have grown, and none not to have."
    return f"{_say_restart(diff)}By the tables that were read: {_say_most_grown(diff, conclusion)}"


def _say_restart(diff: Diff) -> str:
    if not diff.restart:
        return ""
    words = say_restart(diff.interval_seconds)
    return f"{words[0].upper()}{words[1:]}. "


def _say_most_grown(diff: Diff, conclusion: Conclusion) -> str:
    first = conclusion.grown[0]
    if _is_unlisted(diff, first):
        return _say_unlisted(diff, first)
    return f"{_say_growth(diff, first)}{say_owner(first, conclusion)}{say_holder(first, conclusion)}"


def _say_nothing_grew(diff: Diff, asked: Sequence[TagDelta]) -> str:
    if not asked:
        return "No tag that was asked for differs."
    no_tag = "No tag" if len(asked) == len(diff.deltas) else "No tag that was asked for"
    is_told = any(delta.bytes is not None for delta in asked)
    said = (
        f"{no_tag} holds more bytes"
        if is_told
        else "No verdict: the two states do not both tell how many bytes a tag holds"
    )
    most = max(asked, key=lambda delta: delta.outstanding or 0)
    if most.outstanding is None or most.outstanding <= 0:
        return f"{no_tag} grew." if is_told else f"{said}."
    blocks = f"{count_things(most.outstanding, 'block')} more"
    return f"{said}; tag {str(most.tag).strip()} has {blocks} than before, the most of all."


def _say_larger_unlisted(diff: Diff, asked: Sequence[TagDelta], conclusion: Conclusion) -> str:
    """That a tag which only the second list has holds more than the one that grew most did grow by."""
    unlisted = [delta for delta in asked if Change.UNLISTED in delta.changes and delta.bytes is not None]
    largest = max(unlisted, key=lambda delta: delta.bytes or 0, default=None)
    first = conclusion.grown[0]
    if largest is None or _is_unlisted(diff, first) or (largest.bytes or 0) <= (first.bytes or 0):
        return ""
    size = f"Tag {str(largest.tag).strip()} holds {format_bytes(largest.bytes)}"
    return f" {size}; the first list, which is only a part, does not have it."


def _is_unlisted(diff: Diff, grown: GrownTag) -> bool:
    return any(
        Change.UNLISTED in delta.changes for delta in diff.deltas if delta.tag == grown.tag and delta.pool is grown.pool
    )


def _say_unlisted(diff: Diff, first: GrownTag) -> str:
    """Of a tag that an incomplete first list does not have nobody knows how it went on."""
    return (
        f"No tag that both states list grew. Tag {str(first.tag).strip()} of the {name_pool(first.pool, diff.after)} "
        f"holds {format_bytes(first.bytes)}; the first list is only a part, so that it may have held as much before."
    )


def _say_growth(diff: Diff, grown: GrownTag) -> str:
    interval = f" in {format_duration(diff.interval_seconds)}" if (diff.interval_seconds or 0) > 0 else ""
    rate = f", {format_bytes(grown.bytes_per_hour)} an hour" if grown.bytes_per_hour is not None else ""
    pool = name_pool(grown.pool, diff.after)
    return f"Tag {grown.tag} of the {pool} grew most: by {format_bytes(grown.bytes)}{interval}{rate}"
