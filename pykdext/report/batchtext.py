"""A batch as text: what the hosts have in common first, then every dump, then what could not be read."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Optional, Sequence

from pykdext.model import BatchSummary, CommonCause, DumpRow, DumpStatus, OtherVersion, Role
from pykdext.printable import make_printable
from pykdext.report.plaintext import format_table, warning_lines, wrap
from pykdext.units import format_bytes, format_duration

CAUSES_SHOWN = 10
"""JSON has all."""

NAMES_SHOWN = 8
GAPS_SHOWN = 2

MIN_PATH_COLUMNS = 12
"""With less room the dumps' paths are left out: their hosts name them too."""

_HEADERS = ("Host", "Status", "Taken (UTC)", "Up", "Tag", "Type", "Bytes", "Driver")
_ALIGN = ("left", "left", "left", "right", "left", "left", "right", "left")


def render_batch_text(summary: BatchSummary, rows: Iterable[DumpRow], width: int) -> str:
    """The common denominator, a line for each dump with its first suspect, and the reason where there is none."""
    failures: List[str] = []
    cells: List[Sequence[str]] = []
    paths: List[str] = []
    for row in rows:
        cells.append(_cells(row))
        paths.append(row.path)
        reason = row.error or _gap(row)
        if reason:
            failures += _wrap(f"{row.host}: {row.status.value}: {reason}", width, "  ", "    ")
    lines = [*_wrap(describe_counts(summary), width), "", *_wrap(verdict_on_batch(summary), width)]
    for number, cause in enumerate(summary.common[:CAUSES_SHOWN], 1):
        lines += ["", *_cause_lines(number, cause, width)]
    if len(summary.common) > CAUSES_SHOWN:
        lines += ["", f"and {len(summary.common) - CAUSES_SHOWN} more"]
    if cells:
        lines += ["", *_dump_table(cells, paths, width)]
    if failures:
        lines += ["", "Not read, or not all of it", *failures]
    lines += [
        "",
        *_wrap(describe_run(summary), width),
        *warning_lines([make_printable(line) for line in summary.warnings], width),
    ]
    return "\n".join(lines) + "\n"


def _gap(row: DumpRow) -> str:
    """What a dump lacks that was read in part."""
    if row.verdict is None or row.status is not DumpStatus.PARTIAL:
        return ""
    return "; ".join(row.verdict.warnings[:GAPS_SHOWN])


def describe_counts(summary: BatchSummary) -> str:
    """How many dumps became what."""
    parts = [f"{count} {status.value}" for status, count in summary.by_status.items() if count]
    parts += [f"{summary.unfinished} not finished"] if summary.unfinished else []
    return f"{_number(summary.dumps, 'dump')} ({', '.join(parts) or 'none'}) of {_number(summary.hosts, 'host')}"


def verdict_on_batch(summary: BatchSummary) -> str:
    """One sentence: what leaks on how many hosts."""
    if not summary.hosts:
        return "No dump gave a verdict."
    if not summary.common:
        return "No tag looks like a leak on any host."
    first = summary.common[0]
    driver = f", used by {name_driver(first)}" if first.module else ""
    where = f"{len(first.hosts)} of {_number(summary.hosts, 'host')}"
    if first.role is Role.OBJECT:
        words = "Windows allocates the object for somebody who does not let go"
        return f"Tag {first.tag} of the {first.pool.value} pool stands out on {where}: {words}."
    return f"Tag {first.tag} of the {first.pool.value} pool{driver}, looks like a leak on {where}."


def _cause_lines(number: int, cause: CommonCause, width: int) -> Iterator[str]:
    yield from _wrap(f"{number}. {cause.tag} {cause.pool.label}  {describe_owner(cause)}", width, "", "   ")
    held = f"{format_bytes(cause.bytes)} on {_number(len(cause.hosts), 'host')}: {_names(cause.hosts)}"
    yield from _wrap(held, width, "   ", "     ")
    if cause.module is None:
        return
    if cause.quiet_hosts:
        yield from _wrap(f"same driver, no leak: {_names(cause.quiet_hosts)}", width, "   ", "     ")
    for other in cause.other_versions:
        yield from _wrap(describe_other(other), width, "   ", "     ")


def describe_owner(cause: CommonCause) -> str:
    """The driver that uses the tag, and how certain that is."""
    if cause.role is Role.OBJECT:
        return "an object of Windows, allocated for others"
    return f"{name_driver(cause)} ({cause.confidence.value})" if cause.confidence else "no likely owner"


def describe_other(other: OtherVersion) -> str:
    """Another version of a driver, and whether it leaks."""
    quiet = [host for host in other.hosts if host not in other.leaking_hosts]
    parts = [f"leaks on {_names(other.leaking_hosts)}"] if other.leaking_hosts else []
    parts += [f"no leak on {_names(quiet)}"] if quiet else []
    return f"version {other.version or 'not known'}: {'; '.join(parts)}"


def _cells(row: DumpRow) -> Sequence[str]:
    """A dump with its first suspect."""
    verdict = row.verdict
    status = row.status.value if row.status is not DumpStatus.DONE else "ok"
    if verdict is None:
        return (row.host, status, "", "", "", "", "", "")
    taken_at = verdict.taken_at.strftime("%Y-%m-%d %H:%M") if verdict.taken_at else ""
    facts = (row.host, status, taken_at, format_duration(verdict.uptime_seconds))
    if not verdict.suspects:
        return (*facts, "-", "", "", "")
    suspect = verdict.suspects[0]
    owner = suspect.owners[0].module if suspect.owners else ""
    return (*facts, suspect.tag.text, suspect.pool.label, format_bytes(suspect.bytes), owner)


def _dump_table(cells: Sequence[Sequence[str]], paths: Sequence[str], width: int) -> List[str]:
    """The table with the paths in what is left of the line; of a long one its end."""
    table = format_table(_HEADERS, cells, _ALIGN, width)
    left = len(table[1]) + 2
    room = min(width - left, max(map(len, paths)))
    if room < MIN_PATH_COLUMNS:
        return table
    words = ["Dump", "-" * room, *(path if len(path) <= room else "..." + path[3 - room :] for path in paths)]
    return [line.ljust(left) + make_printable(word, frozenset()) for line, word in zip(table, words)]


def describe_run(summary: BatchSummary) -> str:
    """What the run cost."""
    read = summary.dumps - summary.reused - summary.unfinished
    parts = [f"{_number(read, 'dump')} read in {format_duration(summary.seconds)}"]
    if read and summary.seconds:
        parts.append(f"{60 * read / summary.seconds:.0f} a minute")
    if summary.reused:
        parts.append(f"{summary.reused} unchanged since they were stored")
    if summary.fetched_bytes:
        parts.append(f"{format_bytes(summary.fetched_bytes)} fetched over the network")
    return ", ".join(parts)


def _wrap(text: str, width: int, indent: str = "", hanging: Optional[str] = None) -> List[str]:
    """``wrap``; names of hosts and drivers are foreign, and may hold anything."""
    return wrap(make_printable(text), width, indent, hanging)


def name_driver(cause: CommonCause) -> str:
    """The driver of a cause with its version."""
    return f"{cause.module} {cause.version}" if cause.version else str(cause.module)


def _names(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - NAMES_SHOWN} more" if len(hosts) > NAMES_SHOWN else ""
    return ", ".join(hosts[:NAMES_SHOWN]) + more


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
