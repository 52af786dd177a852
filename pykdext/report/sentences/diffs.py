"""What is said of the difference between two states."""

from __future__ import annotations

from pykdext.model import Conclusion, Diff, GrownTag
from pykdext.report.sentences.grown import say_holder, say_owner
from pykdext.units import format_bytes, format_duration


def verdict_on_diff(diff: Diff, conclusion: Conclusion) -> str:
    """What grew most, how fast, who owns it, or what holds it; that nothing did."""
    if not diff.deltas:
        return "No tag differs."
    if not conclusion.grown:
        return "No tag grew."
    first = conclusion.grown[0]
    sentence = f"{_say_growth(diff, first)}{say_owner(first, conclusion)}{say_holder(first, conclusion)}"
    return f"The machine was restarted in between. {sentence}" if diff.restart else sentence


def _say_growth(diff: Diff, grown: GrownTag) -> str:
    interval = f" in {format_duration(diff.interval_seconds)}" if (diff.interval_seconds or 0) > 0 else ""
    rate = f", {format_bytes(grown.bytes_per_hour)} an hour" if grown.bytes_per_hour is not None else ""
    pool = diff.after.name_pool(grown.pool)
    return f"Tag {grown.tag} of the {pool} grew most: by {format_bytes(grown.bytes)}{interval}{rate}"
