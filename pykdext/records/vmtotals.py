"""The totals of WinDbg's ``!vm``: what the pools and the commit charge hold, and may hold.

Each line gives pages and, in parentheses, kilobytes (WDK documentation, "!vm"). Since Windows 8 the nonpaged pool
stands in two lines, one for the no-execute part; lines of single pools or NUMA nodes are parts of the totals.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Dict, List, NamedTuple, Optional, Tuple

from pykdext.model import PoolSnapshot, SnapshotSource, SystemMemory
from pykdext.model.memory import CommitSheet
from pykdext.records.tagtable import check_memory
from pykdext.records.textfile import TextFile
from pykdext.records.vmcommit import parse_commit_sheet
from pykdext.records.windbgtext import parse_session_facts

TOTALS_ONLY = "the text holds totals only, no tags"

_LINE = re.compile(
    r"^[ \t>]*(?P<name>Physical Memory|Available Pages|Committed pages|Commit limit"
    r"|(?:NonPagedPool(?:Nx)?|PagedPool) (?:Usage|Max(?:imum)?)):"
    r"[ \t]{1,40}(?P<pages>\d{1,20})[ \t]{1,20}\([ \t]{0,20}(?P<kilobytes>\d{1,20})[ \t]?Kb\)",
    re.IGNORECASE | re.MULTILINE,
)
_ALARM = re.compile(r"\*{3,}[ \t]*(?!Virtual Memory Usage)(\w[^*\n]{3,120}?)[ \t]*\*{3,}")
"""Whatever the extension prints between asterisks but the heading: it has more alarms than are documented."""
_FIELDS = {
    "physical memory": "physical_bytes",
    "available pages": "available_bytes",
    "committed pages": "commit_bytes",
    "commit limit": "commit_limit_bytes",
    "nonpagedpool max": "nonpaged_limit_bytes",
    "pagedpool maximum": "paged_limit_bytes",
    "pagedpool usage": "paged_bytes",
}
_MAX_BYTES = 1 << 63
"""A larger number is a counter that went below zero."""


class VmTotals(NamedTuple):
    """The totals of one ``!vm``, its alarms in words, and who was charged, as far as it says."""

    memory: SystemMemory
    warnings: Tuple[str, ...]
    commit: Optional[CommitSheet]


def parse_vm_totals(text: str) -> Tuple[VmTotals, ...]:
    """The totals of every ``!vm`` in ``text``; a line that repeats one begins the next."""
    blocks: List[List[re.Match[str]]] = []
    names: List[str] = []
    for line in _LINE.finditer(text):
        name = line["name"].lower()
        if not blocks or name in names:
            blocks.append([])
            names = []
        blocks[-1].append(line)
        names.append(name)
    starts = [block[0].start() for block in blocks]
    ends = [*starts[1:], len(text)]
    return tuple(_read_block(block, text[start:end]) for block, start, end in zip(blocks, starts, ends))


def parse_vm_text(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """Snapshots without tags, of a text that holds ``!vm`` alone; empty if there is none."""
    facts, source = parse_session_facts(file.text), SnapshotSource("!vm text", file.path)
    return tuple(
        replace(facts.make_snapshot(source, totals.memory, (), (TOTALS_ONLY, *totals.warnings)), commit=totals.commit)
        for totals in parse_vm_totals(file.text)
    )


def _read_block(lines: List[re.Match[str]], text: str) -> VmTotals:
    sizes = {line["name"].lower(): int(line["kilobytes"]) << 10 for line in lines}
    sizes = {name: size for name, size in sizes.items() if size < _MAX_BYTES}
    fields: Dict[str, int] = {_FIELDS[name]: size for name, size in sizes.items() if name in _FIELDS}
    nonpaged = [sizes[name] for name in ("nonpagedpool usage", "nonpagedpoolnx usage") if name in sizes]
    if nonpaged:
        fields["nonpaged_bytes"] = sum(nonpaged)
    memory = SystemMemory(**fields)
    alarms = dict.fromkeys(f"!vm says: {alarm}" for alarm in _ALARM.findall(text))
    return VmTotals(memory, (*alarms, *check_memory(memory)), parse_commit_sheet(text))
