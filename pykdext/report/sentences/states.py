"""What is said of one state: the verdict, what was read, and how much of it."""

from __future__ import annotations

from typing import Iterator, Optional, Sequence, Union

from pykdext.model import ImageCoverage, Owner, PoolKind, PoolSnapshot, Role, Suspect, TableCoverage, TargetFacts
from pykdext.units import format_bytes, format_count, format_duration, format_moment, format_share


def verdict_on(
    suspects: Sequence[Suspect], images: Optional[ImageCoverage] = None, snapshot: Optional[PoolSnapshot] = None
) -> str:
    """One or two sentences: the leading suspect and its owner, or that nothing stands out.

    ``images`` is how much of the driver images was searched; None if the source holds none. ``snapshot`` is what was
    judged: where it does not tell enough, that is said.
    """
    if not suspects:
        return _verdict_without_suspects(snapshot)
    first = suspects[0]
    size = (
        f"Tag {first.tag} holds {format_bytes(first.usage.bytes)}, {format_share(first.share)} of the "
        f"{first.pool.value} pool, in {format_count(first.usage.outstanding)} blocks"
    )
    if first.role is Role.OBJECT:
        return (
            f"{size}. Windows allocates this object for somebody who opens or references it and does not let go: "
            "the tag names the victim, not the driver that leaks."
        )
    if not first.owners:
        unknown = "No driver in memory could be tied to it." if images else "Only a dump can tell which driver it is."
        return f"{size}, and looks like a leak. {unknown}"
    return f"{size}, and looks like a leak of {_name_owners(first.owners)}."


def _verdict_without_suspects(snapshot: Optional[PoolSnapshot]) -> str:
    compare = "One state shows no growth; compare two states of this machine to see a slow leak."
    if snapshot is not None and not snapshot.tags:
        return "No verdict: the source lists no tags. Only they can tell which driver uses the pools."
    usages = [row.usage(pool) for row in snapshot.tags for pool in PoolKind] if snapshot else []
    if usages and all(usage.freed_share is None for usage in usages):
        return f"No tag stands out by its size; the source does not tell how often tags were freed. {compare}"
    return f"Nothing stands out: no tag is at once large, seldom freed and foreign to Windows. {compare}"


def _name_owners(owners: Sequence[Owner]) -> str:
    best = [owner for owner in owners if owner.confidence is owners[0].confidence]
    names = " or ".join(owner.module for owner in best[:3])
    more = f" or one of {len(best) - 3} more" if len(best) > 3 else ""
    return f"{names}{more} ({owners[0].confidence.value})"


def subject_lines(snapshot: PoolSnapshot) -> Iterator[str]:
    """What was read: file, system, time."""
    yield f"{snapshot.source.path or 'session'}: {snapshot.source.kind}"
    yield from machine_lines(snapshot)
    if snapshot.source.symbols is not None:
        yield f"Tag tables located by: {snapshot.source.symbols}"


def machine_lines(facts: Union[PoolSnapshot, TargetFacts]) -> Iterator[str]:
    """The system and the moment."""
    system = f"Windows build {facts.build}" if facts.build is not None else "Windows, build not known"
    if facts.machine is not None:
        system += f" {facts.machine.value}"
    if facts.processors is not None:
        system += f", {facts.processors} processor{'s' if facts.processors != 1 else ''}"
    yield system
    yield f"Taken {format_moment(facts.taken_at)}, up {format_duration(facts.uptime_seconds)}"
    if facts.bugcheck is not None:
        parameters = ", ".join(f"{value:x}" for value in facts.bugcheck.parameters)
        yield f"Bugcheck {facts.bugcheck.code:08X} ({parameters})"


def describe_coverage(tables: TableCoverage, images: Optional[ImageCoverage]) -> str:
    """How much of the tag tables and of the driver images was read."""
    parts = []
    if tables.processor_tables_read is not None:
        expected = tables.processor_tables_expected
        parts.append(f"{tables.processor_tables_read} of {expected or 'an unknown number of'} processor tables")
        parts.append(f"{format_count(tables.rows_read)} of {format_count(tables.rows_expected)} rows")
        parts.append(f"expansion table {tables.expansion_table}")
    if images is not None:
        parts.append(describe_images(images))
    return "; ".join(parts) or "all rows of the file"


def describe_images(images: ImageCoverage) -> str:
    """How many of the driver images were searched, and how much of them was in memory."""
    if images.modules_unsearched:
        searched = images.modules_total - images.modules_unsearched
        return f"{searched} of {images.modules_total} images searched before the end"
    resident = format_share(images.resident_fraction) if images.resident_fraction is not None else "nothing"
    return f"{images.modules_scanned} of {images.modules_total} images searched, {resident} of their bytes in memory"
