"""What is said of one state: the verdict, what was read, and how much of it."""

from __future__ import annotations

from typing import Iterator, Optional, Sequence, Union

from pykdext.model import (
    Confidence,
    ImageCoverage,
    LeakReport,
    LockstepGroup,
    PoolKind,
    PoolSnapshot,
    Role,
    Suspect,
    TableCoverage,
    TargetFacts,
    TimeOrigin,
)
from pykdext.model.bugchecks import name_bugcheck
from pykdext.model.objects import HolderReport
from pykdext.report.poolnames import name_pool, name_total
from pykdext.report.sentences.memory import describe_small_pools, describe_untagged
from pykdext.report.sentences.owners import NO_IMAGES, name_owners
from pykdext.units import (
    choose_form,
    count_things,
    format_bytes,
    format_count,
    format_duration,
    format_moment,
    format_share,
    name_some,
    say_ratio,
)

_NARROWEST = 80  # columns of a screen

MOST = 0.5
"""From this share on a tag holds most of a pool."""

LITTLE_BYTES = 16 << 20
"""Less of a tag hangs no machine of today."""

FULL, MUCH_MEMORY, MUCH_BYTES = 0.8, 0.2, 2 << 30
"""Of a pool's limit, of the machine's memory, and in bytes where neither is known: totals that are worth a word."""

COUNTS_NOT_KNOWN = "what tags hold is not known, for any processor may free what another allocates."

_COMPARE = "One state shows no growth; compare two states of this machine to see a slow leak."


def verdict_on(report: LeakReport) -> str:
    """What fills the machine if the pools do not, then the leading suspect and its owner, if any.

    What is unusual of processes follows, where it is not who holds the suspect's objects.
    """
    lacking = say_lacking_counts(report.snapshot.coverage)
    said = _verdict_on_pools(report)
    if report.unusual and _holder_of(report, report.suspects[:1]) is None:
        said = f"{said} {report.unusual}"
    said += "".join(f" But {words}." for words in _iter_doubts(report))
    fills = ""
    if report.fills is not None:
        pools_known = any(report.snapshot.pool_bytes(pool) is not None for pool in PoolKind)
        fills = describe_untagged(report.fills, pools_known)
    return " ".join(filter(None, (lacking, fills, said)))


def say_lacking_counts(coverage: TableCoverage) -> str:
    """That so much of the tag tables is missing that what tags hold is not known; empty where it is."""
    if not coverage.lacks_counts:
        return ""
    if coverage.processor_tables_expected == 1:
        return f"{count_read_tables(coverage)} could be read: what the tags of the others hold is not known."
    return f"{count_read_tables(coverage)} could be read: {COUNTS_NOT_KNOWN}"


def count_read_tables(coverage: TableCoverage) -> str:
    """How many of the processors' tables were read or, where something of each was, of their rows."""
    read, expected = coverage.processor_tables_read, coverage.processor_tables_expected
    if read is not None and expected is not None and read < expected:
        return f"{read} of {count_things(expected, 'processor table')}"
    return f"{format_count(coverage.rows_read)} of {_rows(coverage.rows_expected)} of the tag tables"


def head_largest(coverage: TableCoverage) -> str:
    """The heading of the largest tags: of a part of the tables they are the largest by that part alone."""
    largest = "Largest tags of each pool"
    return f"{largest}, by the tables that were read" if coverage.lacks_counts else largest


def _iter_doubts(report: LeakReport) -> Iterator[str]:
    """What cannot be right of the pool that the verdict names, or of any where it names none."""
    named = report.suspects[0].pool if report.suspects else None
    for pool, words in report.doubts:
        if named is None or pool is named:
            yield words


def _holder_of(report: LeakReport, suspects: Sequence[Suspect]) -> Optional[HolderReport]:
    """Who holds the objects of the suspect; None where it is no object, or nobody stands out."""
    tags = [suspect.tag for suspect in suspects]
    return next((item for item in report.holders if item.tag in tags and not item.kind.tells_nothing), None)


def _verdict_on_pools(report: LeakReport) -> str:
    if not report.suspects:
        return _verdict_without_suspects(report)
    first = report.suspects[0]
    group = next((group for group in report.groups if _holds(group, first)), None)
    if group is None:
        return _verdict_on_one(report, first)
    members = [item for item in (*report.suspects, *report.companions) if _holds(group, item)]
    consumer = max(members, key=lambda item: item.usage.bytes or 0)
    holder = _find_holder(group, members)
    if holder is not None and holder is not consumer:
        return _verdict_on_pair(report, consumer, holder)
    others = [str(item.tag) for item in members if item is not consumer]
    if not others:  # what goes along was left out as doubtful
        return _verdict_on_one(report, consumer)
    go = choose_form(len(others), "goes", "go")
    return f"{_verdict_on_one(report, consumer)} {name_some(others)} {go} along with it, block for block."


def _verdict_on_one(report: LeakReport, first: Suspect) -> str:
    images, holder = report.image_coverage, _holder_of(report, (first,))
    pool = _name_whole(first.pool, report.snapshot)
    if first.share is None:
        size = f"By the tables that were read, tag {first.tag} holds {format_bytes(first.usage.bytes)} of {pool}"
    else:
        size = f"Tag {first.tag} holds {format_bytes(first.usage.bytes)}, {format_share(first.share)} of {pool}"
    if first.usage.outstanding is not None:
        size += f", in {count_things(first.usage.outstanding, 'block')}"
    if holder is not None:
        return f"{size}. {holder.sentence}"
    if first.role is Role.OBJECT:
        return (
            f"{size}. Windows allocates it for somebody who opens, asks for or references it and does not let go: "
            "the tag names the victim, not the driver that leaks."
        )
    if first.role is Role.SHARED:
        return f"{size}, and looks like a leak. The caller is not told by this tag: {_say_sharing(first)}."
    if first.role is Role.CACHE:
        is_measured = any(item.usual and not item.usual.is_analogy for item in first.descriptions)
        grade = "more than is usual" if is_measured else "and looks like a leak"
        why = "it is a cache of Windows, which holds what others use"
        return f"{size}, {grade}. The caller is not told by this tag: {why}."
    if not first.owners:
        unknown = "No driver in memory could be tied to it." if images else NO_IMAGES
        listed = f"A tag list says: {first.descriptions[0].text}. " if first.descriptions else ""
        return f"{size}, and looks like a leak. {listed}{unknown}"
    unless = ", unless what is missing counts its frees" if first.share is None else ""
    return f"{size}, and looks like a leak of {name_owners(first.owners)}{unless}."


def _name_whole(pool: PoolKind, snapshot: PoolSnapshot) -> str:
    """What a share is of: the pool, or only what a text lists of it."""
    return f"{'the' if snapshot.is_whole(pool) else 'what is listed of the'} {name_pool(pool, snapshot)}"


def _say_sharing(suspect: Suspect) -> str:
    """Why the tag names nobody, and which drivers of this machine use it, where that was seen in their code."""
    seen = [owner for owner in suspect.owners if owner.confidence is not Confidence.POSSIBLE]
    words = "any driver may have it, as a default, from a library, or by a routine of Windows"
    return f"{words}; here {name_owners(seen)} uses it" if seen else words


def _verdict_on_pair(report: LeakReport, consumer: Suspect, holder: Suspect) -> str:
    """What takes the memory, and what holds it, in one sentence."""
    held, holding = consumer.usage.outstanding or 0, holder.usage.outstanding or 1
    each = say_ratio(held / holding) if held else "one for each"
    owner = f"which {name_owners(holder.owners)} allocates" if holder.owners else "whose driver is not known"
    pool = _name_whole(consumer.pool, report.snapshot)
    return (
        f"{format_bytes(consumer.usage.bytes)} of {consumer.tag}, {format_share(consumer.share)} of "
        f"{pool}: {each} of {count_things(holding, 'block')} of {holder.tag}, {owner}. "
        f"{holder.tag} holds the others, and looks like the leak."
    )


def _holds(group: LockstepGroup, suspect: Suspect) -> bool:
    return any((member.tag, member.pool) == (suspect.tag, suspect.pool) for member in group.members)


def _find_holder(group: LockstepGroup, members: Sequence[Suspect]) -> Optional[Suspect]:
    """The member that names a driver: one whose owner is likely and foreign, else the one that the frees point at."""
    callers = [item for item in members if not item.role.tells_no_caller]
    causes = [item for item in callers if item.role is Role.CAUSE]
    if causes:
        return min(causes, key=lambda item: item.owners[0].confidence.rank if item.owners else 9)
    seldom = {(member.tag, member.pool) for member in group.members if member.role is Role.CAUSE}
    return next((item for item in callers if (item.tag, item.pool) in seldom), None)


def _verdict_without_suspects(report: LeakReport) -> str:
    snapshot = report.snapshot
    if not snapshot.tags:
        lists = "the source lists no tags. Only they can tell which driver uses the pools."
        totals = list(_say_totals(report))
        little = [] if totals else list(_say_small_pools(report))
        no_tags = f"T{lists[1:]}" if report.fills is not None or little else f"No verdict: {lists}"
        return " ".join((*totals, *little, no_tags))
    if snapshot.blocks:
        tags = name_some(sorted({str(block.tag) for block in snapshot.blocks}))
        owner = next((item for item in report.largest if item.owners and not item.role.tells_no_caller), None)
        named = f" {name_owners(owner.owners)} allocates {owner.tag}." if owner else ""
        return f"No verdict: the source lists single blocks of {tags.strip()}, not what the pools hold.{named}"
    if snapshot.coverage.lacks_counts:
        return "No tag is called a leak by the rest, and none is cleared."
    most = [item for item in report.largest if (item.share or 0) >= MOST]
    first = max(most, key=lambda item: item.usage.bytes or 0, default=None)
    if first is not None:
        return f"{_verdict_on_most(report, first)} {_COMPARE}"
    usages = [row.usage(pool) for row in snapshot.tags for pool in PoolKind]
    if all(usage.bytes is None for usage in usages):
        return f"{_verdict_on_counts(snapshot)} {_COMPARE}"
    if all(usage.freed_share is None for usage in usages):
        plain = "No tag stands out by its size; the source does not tell how often tags were freed."
    else:
        plain = "Nothing stands out: no tag is at once large, seldom freed and foreign to Windows."
    return " ".join((*_say_totals(report, full_only=True), plain, _COMPARE))


def _say_small_pools(report: LeakReport) -> Iterator[str]:
    """That both pools hold little, and what holds more, unless that is said already."""
    pools = [report.snapshot.pool_bytes(pool) for pool in PoolKind]
    if report.fills is None and None not in pools:
        said = describe_small_pools(report.snapshot.commit, sum(size or 0 for size in pools))
        if said:
            yield said


def _say_totals(report: LeakReport, *, full_only: bool = False) -> Iterator[str]:
    """Each pool that is nearly full or, unless ``full_only``, holds much of the machine's memory."""
    physical = report.snapshot.memory.physical_bytes
    for total in report.pools:
        used, filled = total.used_bytes, total.filled_share
        if used is None or (physical and used > physical and total.pool is PoolKind.NONPAGED):
            continue
        name = name_total(total, report.snapshot)
        of_memory = used / physical if physical else 0.0
        if filled is not None and FULL <= filled <= 1:
            yield f"The {name} holds {format_bytes(used)}, {format_share(filled)} of its limit."
        elif full_only:
            continue
        elif of_memory >= MUCH_MEMORY:
            yield f"The {name} holds {format_bytes(used)}, {format_share(of_memory)} of the machine's memory."
        elif physical is None and used >= MUCH_BYTES:
            yield f"The {name} holds {format_bytes(used)}."


def _verdict_on_counts(snapshot: PoolSnapshot) -> str:
    """What can be said of tags of which only blocks are counted."""
    counted = [
        (usage.outstanding, usage.frees, str(row.tag))
        for row in snapshot.tags
        for pool in PoolKind
        if (usage := row.usage(pool)).outstanding
    ]
    most = max(counted, key=lambda item: item[0] or 0, default=None)
    said = "No verdict: the source tells no bytes, so that no tag can be called large."
    if most is None:
        return said
    blocks, frees, tag = most
    never = ", none of which was ever freed" if frees == 0 else ""
    return f"{said} Tag {tag.strip()} has the most blocks outstanding: {format_count(blocks)}{never}."


def _verdict_on_most(report: LeakReport, first: Suspect) -> str:
    """A pool that is mostly one tag, and why that is no leak by its looks."""
    held, whole = format_bytes(first.usage.bytes), _name_whole(first.pool, report.snapshot)
    size = f"Tag {first.tag} holds {held}, {format_share(first.share)} of {whole}"
    if (first.usage.bytes or 0) < LITTLE_BYTES:
        return f"No leak by its looks. {size}: too little to hang a machine."
    excuse = next((reason[4:] for reason in reversed(first.reasons) if reason.startswith("but ")), None)
    if excuse is None:
        said = ("but ", "no tag list", f"holds {held}")
        others = [reason for reason in first.reasons[1:] if not reason.startswith(said)]
        if others:
            return f"{size}; {'; '.join(others)}. These signs do not suffice to call it a leak."
        return f"{size}. That is most of it, but nothing else speaks for a leak."
    return f"No leak by its looks. {size}: {excuse}."


def subject_lines(snapshot: PoolSnapshot) -> Iterator[str]:
    """What was read: file, system, time."""
    yield f"{snapshot.source.path or 'session'}: {snapshot.source.kind}"
    yield from narrow_machine_lines(snapshot)
    if snapshot.source.symbols:
        yield f"Tag tables located by: {snapshot.source.symbols}"


def machine_lines(facts: Union[PoolSnapshot, TargetFacts]) -> Iterator[str]:
    """The system and the moment."""
    system = f"Windows build {facts.build}" if facts.build is not None else "Windows, build not known"
    if facts.machine is not None:
        system += f" {facts.machine.value}"
    if facts.processors is not None:
        system += f", {count_things(facts.processors, 'processor')}"
    yield system
    up = format_duration(facts.uptime_seconds)
    if facts.image is None:
        yield f"Taken {describe_taken(facts)}, up {up}"
    else:
        yield f"Last clock tick at {format_moment(facts.taken_at)}, up {up}"
        if facts.bugcheck is None:
            yield "No bugcheck: memory of a running or hung system"
        yield f"Kernel found by {facts.image.found_by}"
    if facts.bugcheck is not None:
        parameters = ", ".join(f"{value:x}" for value in facts.bugcheck.parameters)
        name = name_bugcheck(facts.bugcheck.code)
        yield f"Bugcheck {facts.bugcheck.code:08X} {f'{name} ' if name else ''}({parameters})"


def narrow_machine_lines(facts: Union[PoolSnapshot, TargetFacts]) -> Iterator[str]:
    """The same for a screen: a bugcheck's parameters stand below its name where they do not fit beside it."""
    for line in machine_lines(facts):
        words, mark, rest = line.partition(" (")
        if len(line) > _NARROWEST and mark:
            yield from (words, f"  ({rest}")
        else:
            yield line


_TIMES_FROM = {
    TimeOrigin.FILE_TIME: "by the file time, perhaps that of a copy",
    TimeOrigin.FILE_NAME: "by the file name",
    TimeOrigin.INTERVAL: "by the interval that was given",
    TimeOrigin.CLOCK_TICK: "the last clock tick",
}


def describe_taken(facts: Union[PoolSnapshot, TargetFacts]) -> str:
    """When a state was taken, and where its time is from unless it stands in the source itself."""
    origin = facts.time_from if isinstance(facts, PoolSnapshot) and facts.taken_at else None
    where = _TIMES_FROM.get(origin) if origin else None
    return f"{format_moment(facts.taken_at)} ({where})" if where else format_moment(facts.taken_at)


def describe_coverage(tables: TableCoverage, images: Optional[ImageCoverage]) -> str:
    """How much of the tag tables and of the driver images was read."""
    parts = []
    if tables.processor_tables_read is not None:
        expected = tables.processor_tables_expected
        parts.append(f"{tables.processor_tables_read} of {_tables(expected)}")
        parts.append(f"{format_count(tables.rows_read)} of {_rows(tables.rows_expected)}")
        parts.append(f"expansion table {tables.expansion_table.value}")
    elif tables.rows_expected is not None:
        parts.append(f"{format_count(tables.rows_read)} of {_rows(tables.rows_expected)} of the text could be read")
    if images is not None:
        parts.append(describe_images(images))
    return "; ".join(parts) or "all rows of the file"


def _tables(count: Optional[int]) -> str:
    return count_things(count, "processor table") if count else "an unknown number of processor tables"


def _rows(count: Optional[int]) -> str:
    return "an unknown number of rows" if count is None else count_things(count, "row")


def describe_images(images: ImageCoverage) -> str:
    """How many of the driver images were searched, and how much of them was in memory."""
    if not images.modules_total:
        return "there is no driver image to search"
    if images.modules_unsearched:
        searched = images.modules_total - images.modules_unsearched
        return f"{searched} of {count_things(images.modules_total, 'image')} searched before the end"
    resident = format_share(images.resident_fraction) if images.resident_fraction is not None else "nothing"
    total = count_things(images.modules_total, "image")
    return f"{images.modules_scanned} of {total} searched, {resident} of their bytes in memory"
