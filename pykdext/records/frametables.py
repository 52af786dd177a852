"""Physical memory by use as texts show it: the tables of RAMMap's tab Use Counts, and WinDbg's ``!memusage``.

RAMMap (Sysinternals) gives kilobytes, a row a use and a column a page list, in English everywhere; cells of nothing
are blank. ``!memusage`` (WDK documentation) counts the lists in pages and, of what is in use, files, processes and
drivers in kilobytes; what its rows do not name stays "in use, not told apart".
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolSnapshot, SnapshotSource, SystemMemory
from pykdext.model.memory import FrameUse, PageFrames, PrivateMemory, UseCount
from pykdext.records.quantities import parse_count, parse_size
from pykdext.records.textfile import TextFile
from pykdext.records.windbgtext import parse_session_facts

USES_ONLY = "the text tells physical memory by use, no tags"
NO_LISTS = "RAMMap's columns cannot be told apart: what is on standby counts as in use"
_PAGE_BYTES = 0x1000
_MOST_BYTES = 1 << 56
_MOST_ROWS = 200_000
_MOST_CHARACTERS = 8 << 20
_LINE_CHARACTERS = 1000

_ROWS: Dict[str, FrameUse] = {
    "process private": FrameUse.PRIVATE,
    "mapped file": FrameUse.MAPPED_FILES,
    "shareable": FrameUse.SHAREABLE,
    "page table": FrameUse.PAGE_TABLES,
    "paged pool": FrameUse.PAGED_POOL,
    "nonpaged pool": FrameUse.NONPAGED_POOL,
    "system pte": FrameUse.SYSTEM_PTES,
    "session private": FrameUse.SESSION,
    "metafile": FrameUse.METAFILE,
    "awe": FrameUse.AWE,
    "driver locked": FrameUse.DRIVER_LOCKED,
    "kernel stack": FrameUse.KERNEL_STACKS,
    "large page": FrameUse.LARGE_PAGES,
    "unused": FrameUse.FREE,
}
_OWN_ROWS = ("process private", "mapped file", "page table", "system pte", "driver locked", "metafile")
"""Rows that no other table has; two of them tell that it is RAMMap's."""

_LISTS: Dict[str, FrameUse] = {
    "standby": FrameUse.STANDBY,
    "modified": FrameUse.MODIFIED,
    "modified no write": FrameUse.MODIFIED,
    "zeroed": FrameUse.ZEROED,
    "free": FrameUse.FREE,
    "bad": FrameUse.BAD,
}
_TITLE = re.compile(r"modified no ?write|modified|total|active|standby|transition|zeroed|free|bad|repurposed", re.I)
_MARKS = r"[\s|\"'`*:;,=~>#-]"
_NAME = re.compile(
    rf"^{_MARKS}{{0,20}}(?P<name>process private|mapped files?|shareable|page tables?|non-?paged pool|paged pool"
    rf"|system ptes?|session private|metafile|awe|driver locked|kernel stacks?|large pages?|unused|total)"
    rf"(?=[\s|\"'`*:;,=~])(?P<cells>.{{0,900}})$",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"(?:\d{1,3}(?:[.,' \xa0\u202f]\d{3}){1,5}|\d{1,15}(?:[.,]\d{1,3})?)(?:\s?(?:[KMGT]i?B?|bytes))?(?![\w%])", re.I
)
_ASIDE = re.compile(r"\([^()]{0,80}\)")

_LIST_LINE = re.compile(
    r"^[ \t>]{0,40}(?P<name>Zeroed|Free|Standby|Modified|ModifiedNoWrite|Active/Valid|Transition|SLIST/(?:Bad|Temp)|Bad"
    r"|Unknown|TOTAL):[ \t]{0,40}(?P<pages>\d{1,15})[ \t]{0,20}\([ \t]{0,20}\d{1,18} ?kb\)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_BY_LIST: Dict[str, FrameUse] = {
    "zeroed": FrameUse.ZEROED,
    "free": FrameUse.FREE,
    "standby": FrameUse.STANDBY,
    "modified": FrameUse.MODIFIED,
    "modifiednowrite": FrameUse.MODIFIED,
    "bad": FrameUse.BAD,
}
_IN_USE = ("active/valid", "transition", "slist/bad", "slist/temp", "unknown")
_HOLDER = re.compile(
    r"^[ \t>]{0,40}(?:[0-9a-f]{7,17}|-{7,16})[ \t]{1,20}(?P<valid>\d{1,15})(?:[ \t]{1,20}(?:\d{1,15}|-{3,7})){4}"
    r"[ \t]{1,20}(?P<tables>\d{1,15}|-{3,7})[ \t]{1,20}(?P<kind>AWE|\w+(?= ?[( ])|[A-Z]\w{2,20})"
    r"(?: ?\( ?(?P<name>[^\n]{0,260}?) ?\))?[^\n]{0,80}$",
    re.IGNORECASE | re.MULTILINE,
)
_BY_KIND: Dict[str, FrameUse] = {
    "awe": FrameUse.AWE,
    "mapped_file": FrameUse.MAPPED_FILES,
    "no": FrameUse.MAPPED_FILES,  # No name for file
    "pagefile": FrameUse.SHAREABLE,
    "process": FrameUse.PRIVATE,
    "driver": FrameUse.DRIVER_IMAGES,
    "session": FrameUse.SESSION,
}


class FrameTable(NamedTuple):
    """Physical memory by use, and what is doubtful about it."""

    frames: PageFrames
    warnings: Tuple[str, ...]


def find_frame_table(text: str) -> Optional[FrameTable]:
    """The last table of either program in the first 8 MB of ``text``; None where there is none."""
    text = text[:_MOST_CHARACTERS]
    return _read_memusage(text) or _read_rammap(text)


def parse_frame_tables(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot without tags, of a text that holds such a table alone; empty if there is none."""
    table = find_frame_table(file.text)
    if table is None:
        return ()
    frames, facts = table.frames, parse_session_facts(file.text)
    memory = SystemMemory(
        physical_bytes=frames.expected * frames.frame_bytes,
        nonpaged_bytes=frames.bytes_of(FrameUse.NONPAGED_POOL) or None,
    )
    source = SnapshotSource(f"{frames.source} text", file.path)
    return (replace(facts.make_snapshot(source, memory, (), (USES_ONLY, *table.warnings)), frames=frames),)


def _read_rammap(text: str) -> Optional[FrameTable]:
    lowered = text.lower()
    if sum(name in lowered for name in _OWN_ROWS) < 2:
        return None
    titles: List[str] = []
    rows: Dict[str, Tuple[int, ...]] = {}
    has_lists = False
    for line in text.split("\n", _MOST_ROWS)[:_MOST_ROWS]:
        if len(line) > _LINE_CHARACTERS:
            continue
        words = [match.group().lower().replace("nowrite", "no write") for match in _TITLE.finditer(line)]
        if "active" in words and "standby" in words:
            titles = words
            continue
        match = _NAME.match(line)
        cells = _split_cells(match["cells"]) if match else []
        if match is None or not cells:
            continue
        sizes = [_read_cell(cell) for cell in cells]
        if sizes[0] is None or any(size is not None and size > _MOST_BYTES for size in sizes):
            continue
        name = match["name"].lower().replace("non-", "non")
        name = name if name in _ROWS or name == "total" else name.rstrip("s")
        has_lists = has_lists or (bool(titles) and len(sizes) > 1)
        rows[name] = tuple(size or 0 for size in sizes)
    if sum(name in rows for name in _OWN_ROWS) < 2:
        return None
    return _sum_rammap(rows, titles, has_lists=has_lists)


def _sum_rammap(rows: Dict[str, Tuple[int, ...]], titles: Sequence[str], *, has_lists: bool) -> FrameTable:
    """Rows with as many cells as there are titles tell the lists, too."""
    places = {title: number for number, title in enumerate(titles)} if titles[:1] == ["total"] else {}
    bytes_by_use: Counter[FrameUse] = Counter()
    unsure = False
    for name, cells in rows.items():
        if name == "total":
            continue
        listed = 0
        if places and len(cells) >= min(4, len(places)):
            for title, use in _LISTS.items():
                size = cells[places[title]] if places.get(title, len(cells)) < len(cells) else 0
                bytes_by_use[use] += size
                listed += size
        else:
            unsure = unsure or (name in ("mapped file", "metafile") and len(cells) != 1) or not has_lists
        bytes_by_use[_ROWS[name]] += max(0, cells[0] - listed)
    warnings = [NO_LISTS] if unsure else []
    total = rows.get("total", (0,))[0]
    if not total:
        warnings.append("RAMMap's row Total is missing: the machine's memory is taken as the sum of the rows")
    elif abs(sum(bytes_by_use.values()) - total) > total // 100:
        warnings.append("RAMMap's rows do not add up to its row Total; some may be missing")
    return FrameTable(_make_frames(bytes_by_use, total, "RAMMap"), tuple(warnings))


def _split_cells(text: str) -> List[str]:
    """The cells behind a row's name; blank ones only where a mark stands between the cells."""
    text = text.lstrip("\"'`*").strip("\r ")
    for mark in ("\t", "|", ";"):
        if mark in text:
            cells = [cell.strip(" \"'`*~") for cell in text.split(mark)]
            return cells[1:] if not cells[0] else cells
    if '","' in text or text.startswith(',"'):
        return [cell.strip(' "') for cell in re.split(r'"?,"|",', text.lstrip(","))]
    return [match.group() for match in _AMOUNT.finditer(_ASIDE.sub(" ", text))]


def _read_cell(text: str) -> Optional[int]:
    """Bytes; None of a blank cell. Kilobytes are whole numbers, whatever mark parts their thousands."""
    text = _ASIDE.sub(" ", text).strip().strip("~").strip()
    kilobytes = parse_count(re.sub(r"(?i)\s?k(?:i?b)?$", "", text).replace("\u202f", " "))
    return parse_size(text, "kb") if kilobytes is None else kilobytes << 10


def _read_memusage(text: str) -> Optional[FrameTable]:
    lines = list(_LIST_LINE.finditer(text))
    starts = [number for number, line in enumerate(lines) if line["name"].lower() == "zeroed"]
    if not starts:
        return None
    lines = lines[starts[-1] :]
    pages = {line["name"].lower(): int(line["pages"]) for line in lines}
    if "active/valid" not in pages or max(pages.values()) > _MOST_BYTES // _PAGE_BYTES:
        return None
    bytes_by_use: Counter[FrameUse] = Counter()
    for name, use in _BY_LIST.items():
        bytes_by_use[use] += pages.get(name, 0) * _PAGE_BYTES
    in_use = sum(pages.get(name, 0) for name in _IN_USE) * _PAGE_BYTES
    held: Counter[FrameUse] = Counter()
    private: List[PrivateMemory] = []
    for use, size, tables, image in _iter_holders(text[lines[-1].end() :]):
        held[use] += size
        held[FrameUse.PAGE_TABLES] += tables
        if use is FrameUse.PRIVATE and image:
            private.append(PrivateMemory(None, image, size, tables))
    warnings: List[str] = []
    if sum(held.values()) > in_use:
        warnings.append("!memusage's rows hold more than is in use: the lists are told, the uses are not")
        held.clear()
    elif not held:
        warnings.append("!memusage's table of uses is not in the text: only the lists are told")
    bytes_by_use += held
    bytes_by_use[FrameUse.NOT_TOLD] = in_use - sum(held.values())
    private.sort(key=lambda process: -process.bytes)
    total = pages.get("total", 0) * _PAGE_BYTES
    return FrameTable(_make_frames(bytes_by_use, total, "!memusage", tuple(private)), tuple(warnings))


def _iter_holders(text: str) -> Iterator[Tuple[FrameUse, int, int, Optional[str]]]:
    """Use, bytes without page tables, bytes of page tables, and the name of each row."""
    for number, row in enumerate(_HOLDER.finditer(text)):
        use = _BY_KIND.get(row["kind"].lower())
        if use is None or number >= _MOST_ROWS:
            continue
        tables = int(row["tables"]) << 10 if row["tables"].isdecimal() else 0
        valid = int(row["valid"]) << 10
        if max(tables, valid) <= _MOST_BYTES:
            yield use, max(0, valid - tables), min(tables, valid), row["name"]


def _make_frames(
    bytes_by_use: Counter[FrameUse], total: int, source: str, private: Tuple[PrivateMemory, ...] = ()
) -> PageFrames:
    uses = [UseCount(use, size // _PAGE_BYTES) for use, size in bytes_by_use.items() if size >= _PAGE_BYTES]
    counted = sum(count.frames for count in uses)
    return PageFrames(
        uses=tuple(sorted(uses, key=lambda count: (-count.frames, count.use.value))),
        expected=max(total // _PAGE_BYTES, counted),
        read=counted,
        is_sampled=False,
        has_regions=True,
        source=source,
        private=private,
    )
