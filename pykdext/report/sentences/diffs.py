"""What is said of the difference between two states."""

from __future__ import annotations

from typing import Optional, Sequence

from pykdext.model import Diff, TagDelta
from pykdext.units import format_bytes, format_duration


def verdict_on_diff(diff: Diff, rows: Sequence[TagDelta]) -> str:
    """One sentence: what grew most."""
    grown: Optional[TagDelta] = max(rows, key=lambda delta: delta.bytes or 0, default=None)
    if grown is None:
        return "No tag differs."
    if not grown.bytes or grown.bytes < 0:
        return "No tag grew."
    interval = f" in {format_duration(diff.interval_seconds)}" if (diff.interval_seconds or 0) > 0 else ""
    rate = f", {format_bytes(grown.bytes_per_hour)} an hour" if grown.bytes_per_hour is not None else ""
    grew = f"Tag {grown.tag} of the {grown.pool.value} pool grew most: by {format_bytes(grown.bytes)}{interval}{rate}."
    return f"The machine was restarted in between. {grew}" if diff.restart else grew
