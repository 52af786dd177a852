"""Reports as lines of ASCII text: the words and columns of WinDbg and poolmon, with links where the markup has any."""

from __future__ import annotations

from typing import Iterator, List, Optional, Sequence, Tuple

from pykdext.model import (
    Evidence,
    ImageCoverage,
    LeakReport,
    Owner,
    PoolKind,
    PoolSnapshot,
    SnapshotSource,
    Suspect,
    TagOwners,
    TagUsage,
)
from pykdext.report.grouptable import group_lines
from pykdext.report.layout import cut, format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, link_cells, link_words, render_lines, tint_cells
from pykdext.report.memorytext import untagged_table
from pykdext.report.poolnames import is_pool_named, label_pool, label_total, list_totals, name_pool
from pykdext.report.sentences.owners import (
    describe,
    describe_gap,
    describe_place,
    describe_vendor,
    find_address,
    name_use,
)
from pykdext.report.sentences.states import describe_coverage, describe_images, head_largest, subject_lines
from pykdext.report.sentences.tones import tone_of_report, tone_of_role
from pykdext.report.steps import step_lines
from pykdext.units import count_things, format_bytes, format_count, format_share, say_rest

EVIDENCE_SHOWN = 4
"""Places listed for one owner; JSON has them all."""

_COLUMNS = ("Tag", "Type", "Diff", "Bytes", "Share", "Freed", "Per hour", "Role")
_ALIGN = ("left", "left", "right", "right", "right", "right", "right", "left")


def render_report_text(report: LeakReport, width: int, markup: Markup = PLAIN) -> str:
    """The verdict first, then what it rests on."""
    links = Links(report.snapshot.source)
    verdict = emphasize(wrap(report.verdict, width), tone_of_report(report))
    lines: List[Line] = [*subject_lines(report.snapshot), "", *verdict, ""]
    lines += _pool_table(report)
    if report.suspects:
        lines += ["", *_suspect_table(report.suspects, report.snapshot, width, links)]
        for number, suspect in enumerate(report.suspects, 1):
            lines += ["", *_suspect_lines(number, suspect, report, width, links)]
    for group in report.groups:
        lines += [
            "",
            *group_lines(
                group, "as many blocks of each are outstanding", width, links, report.snapshot, have_grown=False
            ),
        ]
    if report.untagged:
        lines += ["", "Outside the tags", *untagged_table(report.untagged, width)]
    if report.largest:
        heading = head_largest(report.snapshot.coverage)
        lines += ["", heading, *_largest_table(report.largest, report.snapshot, width, links)]
    lines += ["", "Next steps"]
    lines += step_lines(report.next_steps, width, links)
    lines += ["", *wrap(f"Coverage: {describe_coverage(report.snapshot.coverage, report.image_coverage)}", width)]
    lines += warning_lines([line for line in report.warnings if line not in report.verdict], width)
    return render_lines(lines, markup, width)


def render_owners_text(
    source: SnapshotSource,
    found: Sequence[TagOwners],
    warnings: Sequence[str],
    width: int,
    markup: Markup = PLAIN,
    state: Optional[PoolSnapshot] = None,
) -> str:
    """Each tag with its owners and their evidence; ``source``: where they were looked for, ``state``: what it tells."""
    links = Links(source)
    lines: List[Line] = []
    held = {row.tag: _held_lines(row, state) for row in state.tags} if state else {}
    for owners in found:
        lines += [*_tag_heading(owners, links), *held.get(owners.tag, ())]
        lines += [*owner_lines(owners.owners, owners.coverage, width, links)]
        lines += [*note_lines(owners.notes, width), ""]
    lines += [f"Coverage: {describe_images(found[0].coverage)}"] if found else []
    return render_lines([*lines, *warning_lines(warnings, width)], markup, width)


def _pool_table(report: LeakReport) -> List[str]:
    rows = [
        (
            label_total(total, report.snapshot),
            format_bytes(total.used_bytes),
            format_bytes(total.limit_bytes) if total.limit_bytes is not None else "not known",
            format_share(total.filled_share),
            total.source,
        )
        for total in list_totals(report.pools, report.snapshot)
    ]
    return format_table(
        ("Pool", "Used", "Limit", "Filled", "Used is"), rows, ("left", "right", "right", "right", "left")
    )


def _suspect_table(suspects: Sequence[Suspect], snapshot: PoolSnapshot, width: int, links: Links) -> List[Line]:
    rows = [
        (str(number), *_cells(suspect, snapshot), suspect.owners[0].module if suspect.owners else "unknown")
        for number, suspect in enumerate(suspects, 1)
    ]
    headers, align = ("#", *_COLUMNS, "Owner"), ("right", *_ALIGN, "left")
    table = link_cells(format_table(headers, rows, align, width), 1, [links.tag(suspect.tag) for suspect in suspects])
    owners = [links.module(suspect.owners[0].module) if suspect.owners else None for suspect in suspects]
    tones = [tone_of_role(suspect.role) for suspect in suspects]
    return tint_cells(link_cells(table, len(headers) - 1, owners), len(headers) - 2, tones)


def _largest_table(largest: Sequence[Suspect], snapshot: PoolSnapshot, width: int, links: Links) -> List[Line]:
    """The numbers, and what is left of the line for who owns or uses a tag."""
    cells = [_cells(item, snapshot) for item in largest]
    room = width - len(format_table(_COLUMNS, cells, _ALIGN)[1]) - 2
    rows = [(*numbers, cut(name_use(item), room)) for numbers, item in zip(cells, largest)]
    table = format_table((*_COLUMNS, cut("Owner or use", room)), rows, (*_ALIGN, "left"), width)
    tones = [tone_of_role(item.role) for item in largest]
    return tint_cells(link_cells(table, 0, [links.tag(item.tag) for item in largest]), len(_COLUMNS) - 1, tones)


def _cells(suspect: Suspect, snapshot: PoolSnapshot) -> Tuple[str, ...]:
    return (
        suspect.tag.text,
        label_pool(suspect.pool, snapshot),
        format_count(suspect.usage.outstanding),
        format_bytes(suspect.usage.bytes),
        format_share(suspect.share),
        format_share(suspect.usage.freed_share),
        format_bytes(suspect.bytes_per_hour),
        suspect.role.value,
    )


def _suspect_lines(
    number: int,
    suspect: Suspect,
    report: LeakReport,
    width: int,
    links: Links,
) -> Iterator[Line]:
    yield from emphasize([f"{number}. {suspect.tag} in {name_pool(suspect.pool, report.snapshot)}"])
    for item in suspect.descriptions[:1]:
        yield from wrap(f"{describe(item)} ({item.source})", width, "   ")
    yield from wrap(f"Why: {'; '.join(suspect.reasons)}", width, "   ", "     ")
    for holder in report.holders:
        if holder.tag == suspect.tag:
            yield from wrap(f"Held: {holder.sentence} [{holder.grade}]", width, "   ", "     ")
    yield from owner_lines(suspect.owners, report.image_coverage, width, links)
    yield from note_lines(suspect.owner_notes, width)


def _tag_heading(owners: TagOwners, links: Links) -> Iterator[Line]:
    yield from link_words([f"{owners.tag}  ({owners.tag.hex})"], owners.tag.text, links.usage(owners.tag))
    for item in owners.descriptions:
        yield f"  {describe(item)} ({item.source})"


def _held_lines(row: TagUsage, state: PoolSnapshot) -> Iterator[str]:
    """What the tag holds of each pool in which it holds anything."""
    sides = [(f"{pool.value} " if is_pool_named(state) else "", row.usage(pool)) for pool in PoolKind]
    held = [
        f"{of_pool}{count_things(usage.bytes, 'byte')} in {_blocks(usage.outstanding)}"
        for of_pool, usage in sides
        if usage.bytes or usage.outstanding
    ]
    if held:
        yield f"   Holds: {'; '.join(held)}"


def _blocks(count: Optional[int]) -> str:
    return "blocks that are not counted" if count is None else count_things(count, "block")


def owner_lines(owners: Sequence[Owner], coverage: Optional[ImageCoverage], width: int, links: Links) -> Iterator[Line]:
    """Each owner with its evidence, or what was searched in vain."""
    if not owners:
        yield from wrap(f"Owner: unknown; {describe_gap(coverage)}", width, "   ", "     ")
    for owner in owners:
        sentence = f"Owner: {owner.module}, {owner.confidence.value}; {describe_vendor(owner)}"
        lines = wrap(sentence, width, "   ", "     ")
        yield from link_words(lines, owner.module, links.module(owner.module))
        for item in owner.evidence[:EVIDENCE_SHOWN]:
            lines = wrap(_evidence_text(owner, item), width, "     ", "       ")
            yield from link_words(lines, describe_place(owner, item), links.place(find_address(owner, item)))
        if len(owner.evidence) > EVIDENCE_SHOWN:
            yield f"     {say_rest(len(owner.evidence), EVIDENCE_SHOWN)}"


def note_lines(notes: Sequence[str], width: int) -> Iterator[str]:
    """Remarks on owners."""
    for note in notes:
        yield from wrap(f"Note: {note}", width, "   ", "     ")


def _evidence_text(owner: Owner, item: Evidence) -> str:
    place = f"{describe_place(owner, item)}  " if item.rva is not None else ""
    function = f" (in {item.function})" if item.function else ""
    return f"{item.confidence.value:8}  {place}{item.detail}{function}"
