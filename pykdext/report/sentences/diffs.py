"""What is said of the difference between two states."""

from __future__ import annotations

from typing import Sequence

from pykdext.model import Conclusion, Diff, GrownTag, TagDelta
from pykdext.report.sentences.grown import say_holder, say_owner
from pykdext.units import format_bytes, format_duration


def verdict_on_diff(diff: Diff, asked: Sequence[TagDelta], conclusion: Conclusion) -> str:
    """What grew most, how fast, who owns it, or what holds it; that nothing did. ``asked``: the rows asked for."""
    if not diff.deltas:
        return "No tag differs."
    if not conclusion.grown:
        return _say_nothing_grew(diff, asked)
    first = conclusion.grown[0]
    sentence = f"{_say_growth(diff, first)}{say_owner(first, conclusion)}{say_holder(first, conclusion)}"
    return f"The machine was restarted in between. {sentence}" if diff.restart else sentence


def _say_nothing_grew(diff: Diff, asked: Sequence[TagDelta]) -> str:
    if not asked:
        return "No tag that was asked for differs."
    if all(delta.bytes is None for delta in asked):
        return "No verdict: the two states do not both tell how many bytes a tag holds."
    return "No tag grew." if len(asked) == len(diff.deltas) else "No tag that was asked for grew."


def _say_growth(diff: Diff, grown: GrownTag) -> str:
    interval = f" in {format_duration(diff.interval_seconds)}" if (diff.interval_seconds or 0) > 0 else ""
    rate = f", {format_bytes(grown.bytes_per_hour)} an hour" if grown.bytes_per_hour is not None else ""
    pool = diff.after.name_pool(grown.pool)
    return f"Tag {grown.tag} of the {pool} grew most: by {format_bytes(grown.bytes)}{interval}{rate}"
