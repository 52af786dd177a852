"""Reports as lines of ASCII text: the words and columns of WinDbg and poolmon, with links where the markup has any."""

from __future__ import annotations

import textwrap
from typing import Iterable, Iterator, List, Optional, Sequence, Union

import tabulate

from pykdext.model import (
    Evidence,
    ImageCoverage,
    ImageVersion,
    LeakReport,
    NextStep,
    Owner,
    PoolSnapshot,
    PoolTotal,
    SnapshotSource,
    Suspect,
    TableCoverage,
    TagDescription,
    TagOwners,
    TargetFacts,
)
from pykdext.printable import make_printable
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, link_cells, link_words, render_lines
from pykdext.units import format_bytes, format_count, format_duration, format_share

COMMAND_COLUMNS = 48
"""Longer commands (with long paths) stand on a line of their own."""

_MARKS = str.maketrans({"\u00a9": "(C)", "\u00ae": "(R)", "\u2122": "(TM)"})
"""Marks that version resources are full of, in ASCII."""

EVIDENCE_SHOWN = 4
"""Places listed for one owner; JSON has them all."""


def format_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str], width: Optional[int] = None
) -> List[str]:
    """Lines of a table of ready texts: headers, rule, a line for each row; longer ones are cut at ``width``.

    The blanks of tags are kept, nothing is taken for a number, and no text breaks its line.
    """
    tabulate.PRESERVE_WHITESPACE = True
    tabulate.MIN_PADDING = 0
    cells = [[make_printable(cell, frozenset()) for cell in row] for row in rows]
    table: str = tabulate.tabulate(
        cells,
        headers=headers,
        tablefmt="simple",
        colalign=align if cells else None,
        disable_numparse=True,
    )
    return [_cut(line.rstrip(), width) for line in table.splitlines()]


def _cut(line: str, width: Optional[int]) -> str:
    return line if width is None or len(line) <= width else line[: width - 3] + "..."


def wrap(text: str, width: int, indent: str = "", hanging: Optional[str] = None) -> List[str]:
    """Lines of running text; words that are longer than a line (paths) stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def describe(item: TagDescription) -> str:
    """An entry of a tag list in words; some entries name no module."""
    return f"{item.module}: {item.text}" if item.module else item.text


def render_report_text(report: LeakReport, width: int, markup: Markup = PLAIN) -> str:
    """The verdict first, then what it rests on."""
    links = Links(report.snapshot.source)
    lines: List[Line] = [*subject_lines(report.snapshot), "", *emphasize(wrap(report.verdict, width)), ""]
    lines += _pool_table(report.pools)
    if report.suspects:
        lines += ["", *_suspect_table(report.suspects, width, links)]
        for number, suspect in enumerate(report.suspects, 1):
            lines += ["", *_suspect_lines(number, suspect, report.image_coverage, width, links)]
    lines += ["", "Next steps"]
    lines += _step_lines(report.next_steps, width, links)
    lines += ["", *wrap(f"Coverage: {describe_coverage(report.snapshot.coverage, report.image_coverage)}", width)]
    lines += warning_lines(report.warnings, width)
    return render_lines(lines, markup, width)


def render_owners_text(
    source: SnapshotSource, found: Sequence[TagOwners], warnings: Sequence[str], width: int, markup: Markup = PLAIN
) -> str:
    """Each tag with its owners and their evidence; ``source`` is where they were looked for."""
    links = Links(source)
    lines: List[Line] = []
    for owners in found:
        lines += [*_tag_heading(owners, links), *_owner_lines(owners.owners, owners.coverage, width, links)]
        lines += [*_note_lines(owners.notes, width), ""]
    lines += [f"Coverage: {_image_text(found[0].coverage)}"] if found else []
    return render_lines([*lines, *warning_lines(warnings, width)], markup, width)


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
    taken = facts.taken_at.strftime("%Y-%m-%d %H:%M:%S UTC") if facts.taken_at else "time not known"
    yield f"Taken {taken}, up {format_duration(facts.uptime_seconds)}"
    if facts.bugcheck is not None:
        parameters = ", ".join(f"{value:x}" for value in facts.bugcheck.parameters)
        yield f"Bugcheck {facts.bugcheck.code:08X} ({parameters})"


def _pool_table(pools: Sequence[PoolTotal]) -> List[str]:
    rows = [
        (
            total.pool.label,
            format_bytes(total.used_bytes),
            format_bytes(total.limit_bytes) if total.limit_bytes is not None else "not known",
            format_share(total.filled_share),
            "the sum of the tags" if total.by_tags else "the memory manager's count",
        )
        for total in pools
    ]
    return format_table(
        ("Pool", "Used", "Limit", "Filled", "Used is"), rows, ("left", "right", "right", "right", "left")
    )


def _suspect_table(suspects: Sequence[Suspect], width: int, links: Links) -> List[Line]:
    rows = [
        (
            str(number),
            suspect.tag.text,
            suspect.pool.label,
            format_count(suspect.usage.outstanding),
            format_bytes(suspect.usage.bytes),
            format_share(suspect.share),
            format_share(suspect.usage.freed_share),
            format_bytes(suspect.bytes_per_hour),
            suspect.role.value,
            suspect.owners[0].module if suspect.owners else "unknown",
        )
        for number, suspect in enumerate(suspects, 1)
    ]
    headers = ("#", "Tag", "Type", "Diff", "Bytes", "Share", "Freed", "Per hour", "Role", "Owner")
    align = ("right", "left", "left", "right", "right", "right", "right", "right", "left", "left")
    table = link_cells(format_table(headers, rows, align, width), 1, [links.tag(suspect.tag) for suspect in suspects])
    owners = [links.module(suspect.owners[0].module) if suspect.owners else None for suspect in suspects]
    return link_cells(table, len(headers) - 1, owners)


def _suspect_lines(
    number: int, suspect: Suspect, coverage: Optional[ImageCoverage], width: int, links: Links
) -> Iterator[Line]:
    yield from emphasize([f"{number}. {suspect.tag} in {suspect.pool.value} pool"])
    for item in suspect.descriptions[:1]:
        yield from wrap(f"{describe(item)} ({item.source})", width, "   ")
    yield from wrap(f"Why: {'; '.join(suspect.reasons)}", width, "   ", "     ")
    yield from _owner_lines(suspect.owners, coverage, width, links)
    yield from _note_lines(suspect.owner_notes, width)


def _step_lines(steps: Sequence[NextStep], width: int, links: Links) -> Iterator[Line]:
    commands = [step.command for step in steps if step.command]
    column = max((len(command) for command in commands if len(command) <= COMMAND_COLUMNS), default=0) + 4
    for step in steps:
        if step.command is None:
            yield from wrap(step.why, width, "  ", "      ")
        elif len(step.command) <= COMMAND_COLUMNS:
            lines = wrap(step.why, width, f"  {step.command}".ljust(column), " " * column)
            yield from link_words(lines, step.command, links.command(step.command))
        else:
            yield from link_words([f"  {step.command}"], step.command, links.command(step.command))
            yield from wrap(step.why, width, " " * column)


def _tag_heading(owners: TagOwners, links: Links) -> Iterator[Line]:
    yield from link_words([f"{owners.tag}  ({owners.tag.hex})"], owners.tag.text, links.usage(owners.tag))
    for item in owners.descriptions:
        yield f"  {describe(item)} ({item.source})"


def _owner_lines(
    owners: Sequence[Owner], coverage: Optional[ImageCoverage], width: int, links: Links
) -> Iterator[Line]:
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
            yield f"     and {len(owner.evidence) - EVIDENCE_SHOWN} more"


def _note_lines(notes: Sequence[str], width: int) -> Iterator[str]:
    for note in notes:
        yield from wrap(f"Note: {note}", width, "   ", "     ")


def describe_gap(coverage: Optional[ImageCoverage]) -> str:
    """What was looked at in vain: a tag that is not in the part in memory can be in the rest."""
    if coverage is None or not coverage.modules_total:
        return "there is no driver image to search, and no tag list has this tag"
    scanned, total = coverage.modules_scanned, coverage.modules_total
    if coverage.resident_fraction is None:
        return f"none of the {total:,} driver images is in memory, and no tag list has this tag"
    if coverage.resident_fraction < 1 or scanned < total:
        images = "the driver images" if scanned == total else f"{scanned:,} of {total:,} driver images"
        share = format_share(coverage.resident_fraction)
        return f"not in the {share} of {images} that is in memory, nor in a tag list; it may be in the rest"
    return "no driver image and no tag list has this tag"


def describe_vendor(owner: Owner) -> str:
    """Where an owner comes from, behind its name."""
    version = owner.version
    words = [version.company, version.product, version.file_version, _built_text(version)] if version else []
    known = ", ".join(word for word in words if word).translate(_MARKS)
    windows = {True: "part of Windows", False: "not part of Windows", None: "vendor not known"}[owner.part_of_windows]
    return f"{windows} ({known})" if known else windows


def _built_text(version: ImageVersion) -> Optional[str]:
    return f"built {version.built_at:%Y-%m-%d}" if version.built_at else None


def _evidence_text(owner: Owner, item: Evidence) -> str:
    place = f"{describe_place(owner, item)}  " if item.rva is not None else ""
    function = f" (in {item.function})" if item.function else ""
    return f"{item.confidence.value:8}  {place}{item.detail}{function}"


def describe_place(owner: Owner, item: Evidence) -> str:
    """``pippo+0x109f``; nothing for what a tag list says."""
    return "" if item.rva is None else f"{owner.module.rsplit('.', 1)[0]}+0x{item.rva:x}"


def find_address(owner: Owner, item: Evidence) -> Optional[int]:
    """Where the evidence stands in the target's memory."""
    return None if owner.base is None or item.rva is None else owner.base + item.rva


def describe_coverage(tables: TableCoverage, images: Optional[ImageCoverage]) -> str:
    """How much of the tag tables and of the driver images was read."""
    parts = []
    if tables.processor_tables_read is not None:
        expected = tables.processor_tables_expected
        parts.append(f"{tables.processor_tables_read} of {expected or 'an unknown number of'} processor tables")
        parts.append(f"{format_count(tables.rows_read)} of {format_count(tables.rows_expected)} rows")
        parts.append(f"expansion table {tables.expansion_table}")
    if images is not None:
        parts.append(_image_text(images))
    return "; ".join(parts) or "all rows of the file"


def _image_text(images: ImageCoverage) -> str:
    resident = format_share(images.resident_fraction) if images.resident_fraction is not None else "nothing"
    return f"{images.modules_scanned} of {images.modules_total} images searched, {resident} of their bytes in memory"


def warning_lines(warnings: Sequence[str], width: int) -> List[str]:
    """Each warning, wrapped."""
    return [line for warning in warnings for line in wrap(f"Warning: {warning}", width, "", "  ")]
