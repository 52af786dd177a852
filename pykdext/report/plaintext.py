"""Reports as plain ASCII text of at most 100 columns: the words and columns of WinDbg and poolmon."""

from __future__ import annotations

import textwrap
from typing import Iterable, Iterator, List, Optional, Sequence, Union

import tabulate

from pykdext.model import (
    Evidence,
    ImageCoverage,
    LeakReport,
    NextStep,
    Owner,
    PoolSnapshot,
    PoolTotal,
    Suspect,
    TableCoverage,
    TagDescription,
    TagOwners,
    TargetFacts,
)
from pykdext.units import format_bytes, format_count, format_duration, format_share

COMMAND_COLUMNS = 48
"""Longer commands (with long paths) stand on a line of their own."""

EVIDENCE_SHOWN = 4
"""Places listed for one owner; JSON has them all."""


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str]) -> List[str]:
    """Lines of a table of ready texts; the blanks of tags are kept and nothing is taken for a number."""
    tabulate.PRESERVE_WHITESPACE = True
    tabulate.MIN_PADDING = 0
    table: str = tabulate.tabulate(
        list(rows), headers=headers, tablefmt="simple", colalign=align, disable_numparse=True
    )
    return [line.rstrip() for line in table.splitlines()]


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


def render_report_text(report: LeakReport, width: int) -> str:
    """The verdict first, then what it rests on."""
    lines = [*subject_lines(report.snapshot), "", *wrap(report.verdict, width), ""]
    lines += _pool_table(report.pools)
    if report.suspects:
        lines += ["", *_suspect_table(report.suspects)]
        for number, suspect in enumerate(report.suspects, 1):
            lines += ["", *_suspect_lines(number, suspect, width)]
    lines += ["", "Next steps"]
    lines += _step_lines(report.next_steps, width)
    lines += ["", *wrap(f"Coverage: {_coverage_text(report.snapshot.coverage, report.image_coverage)}", width)]
    lines += warning_lines(report.warnings, width)
    return "\n".join(lines) + "\n"


def render_owners_text(found: Sequence[TagOwners], warnings: Sequence[str], width: int) -> str:
    """Each tag with its owners and their evidence."""
    lines: List[str] = []
    for owners in found:
        lines += [*_tag_heading(owners), *_owner_lines(owners.owners, width), ""]
    lines += [f"Coverage: {_image_text(found[0].coverage)}"] if found else []
    return "\n".join([*lines, *warning_lines(warnings, width)]) + "\n"


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


def _suspect_table(suspects: Sequence[Suspect]) -> List[str]:
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
    return format_table(headers, rows, align)


def _suspect_lines(number: int, suspect: Suspect, width: int) -> Iterator[str]:
    yield f"{number}. {suspect.tag} in {suspect.pool.value} pool"
    for item in suspect.descriptions[:1]:
        yield from wrap(f"{describe(item)} ({item.source})", width, "   ")
    yield from wrap(f"Why: {'; '.join(suspect.reasons)}", width, "   ", "     ")
    yield from _owner_lines(suspect.owners, width)


def _step_lines(steps: Sequence[NextStep], width: int) -> Iterator[str]:
    commands = [step.command for step in steps if step.command]
    column = max((len(command) for command in commands if len(command) <= COMMAND_COLUMNS), default=0) + 4
    for step in steps:
        if step.command is None:
            yield from wrap(step.why, width, "  ", "      ")
        elif len(step.command) <= COMMAND_COLUMNS:
            yield from wrap(step.why, width, f"  {step.command}".ljust(column), " " * column)
        else:
            yield f"  {step.command}"
            yield from wrap(step.why, width, " " * column)


def _tag_heading(owners: TagOwners) -> Iterator[str]:
    yield f"{owners.tag}  ({owners.tag.hex})"
    for item in owners.descriptions:
        yield f"  {describe(item)} ({item.source})"


def _owner_lines(owners: Sequence[Owner], width: int) -> Iterator[str]:
    if not owners:
        yield "   Owner: unknown; no image in memory and no tag list has this tag"
    for owner in owners:
        yield from wrap(f"Owner: {owner.module}, {owner.confidence.value}{_vendor_text(owner)}", width, "   ", "     ")
        for item in owner.evidence[:EVIDENCE_SHOWN]:
            yield from wrap(_evidence_text(owner, item), width, "     ", "       ")
        if len(owner.evidence) > EVIDENCE_SHOWN:
            yield f"     and {len(owner.evidence) - EVIDENCE_SHOWN} more"


def _vendor_text(owner: Owner) -> str:
    version = owner.version
    words = [version.company, version.product, version.file_version] if version else []
    known = ", ".join(word for word in words if word)
    windows = {True: "part of Windows", False: "not part of Windows", None: "vendor not known"}[owner.part_of_windows]
    return f"; {windows}" + (f" ({known})" if known else "")


def _evidence_text(owner: Owner, item: Evidence) -> str:
    stem = owner.module.rsplit(".", 1)[0]
    place = f"{item.function or stem}+0x{item.rva:x}  " if item.rva is not None else ""
    return f"{item.confidence.value:8}  {place}{item.detail}"


def _coverage_text(tables: TableCoverage, images: Optional[ImageCoverage]) -> str:
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
