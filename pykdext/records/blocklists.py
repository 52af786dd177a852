"""Single blocks that the debugger lists: ``!poolfind`` (by tag) and ``!verifier 3`` (by driver, with the caller).

Forms: WDK documentation ("!poolfind", "!verifier"), and what present debuggers print. They are samples: the search may
have been ended, and the verifier counts verified drivers only.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Dict, List, Optional, Tuple

from pykdext.model import Allocation, PoolKind, PoolSnapshot, PoolTag, PoolUsage, SnapshotSource, StatedDriver
from pykdext.records.columns import find_pool
from pykdext.records.tagtable import TagTable, tag_of_text
from pykdext.records.textfile import TextFile
from pykdext.units import count_things, format_bytes

_ADDRESS = r"^\s{0,8}\*?\s{0,4}(?:0x)?([0-9a-fA-F]{8}`?[0-9a-fA-F]{0,8})"
_FOUND = re.compile(
    rf"{_ADDRESS}\s*:\s*tag (.{{4}}), size\s+0x([0-9a-fA-F]{{1,12}}), (Non ?paged|Paged|[^,\n]{{1,30}}) pool",
    re.IGNORECASE | re.MULTILINE,
)
_OLD_FOUND = re.compile(
    rf"{_ADDRESS}\s+size:\s+([0-9a-fA-F]{{1,8}}) previous size:\s+[0-9a-fA-F]{{1,8}}\s+"
    r"\((Allocated|Free)[^)\n]{0,40}\) ?([^\n\r]{1,4})",
    re.MULTILINE,
)
_SEARCHED = re.compile(r"Searching (NonPaged|Paged) pool|Scanning large pool", re.IGNORECASE)
_COMMAND = re.compile(r"!poolfind\b[^\n]{0,80}?(?:-(nonpaged|paged)\b|[ \t]([01])[ \t]*$)", re.IGNORECASE)
_COMMAND_POOLS = {"0": PoolKind.NONPAGED, "1": PoolKind.PAGED}
_ENDED = re.compile(r"terminating - searched pool to ([0-9a-fA-F`]{8,17})")
_VERIFIED = re.compile(r"^[^\n]{0,200}?([\w.$-]{1,60}\.(?:sys|dll|exe))\s*\(|Driver:\s*([\w.$-]{1,60})", re.IGNORECASE)
_STATISTICS = re.compile(
    r"Current Pool Allocations:\s*\(\s*(?:0x)?([0-9a-fA-F]{1,16})\s*/\s*(?:0x)?([0-9a-fA-F]{1,16})"
)
_HELD_BYTES = re.compile(r"Current Pool Bytes:\s*\(\s*(?:0x)?([0-9a-fA-F]{1,16})\s*/\s*(?:0x)?([0-9a-fA-F]{1,16})")
_MOST_DRIVERS = 16
_VERIFIED_BLOCK = re.compile(
    r"^\s{0,12}0x([0-9a-fA-F][0-9a-fA-F`]{7,16})\s+0x([0-9a-fA-F]{1,16})(?:\s{1,4}|\s{5,12}(?=\S))(.{4})"
    r"\s+0x([0-9a-fA-F][0-9a-fA-F`]{7,16})(?:[ \t]+(\S{1,200}))?"
)
_VERIFIER_TITLES = re.compile(r"Address\s+(?:Length|SizeInBytes)\s+Tag\s+Caller", re.IGNORECASE)
_PAGE_BYTES = 4096
_MOST_BLOCKS = 2_000_000


def parse_poolfind(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """One snapshot of all blocks that ``!poolfind`` lists; empty if it lists none."""
    blocks = [*_iter_found(file.text), *_iter_old_found(file.text)][:_MOST_BLOCKS]
    if not blocks:
        return ()
    ended = _ENDED.search(file.text)
    warnings = ["the blocks that !poolfind listed are summed up, not what the tag tables count"]
    if ended:
        warnings.append(f"the search was ended at {ended[1]}: there may be more blocks")
    return (_sum_blocks(blocks, "!poolfind text", file.path, tuple(warnings), ()),)


def _iter_found(text: str) -> List[Allocation]:
    blocks = []
    for match in _FOUND.finditer(text):
        address, size = int(match[1].replace("`", ""), 16), int(match[3], 16)
        tag = tag_of_text(match[2])
        kind = match[4].lower().replace(" ", "")
        pool = (
            PoolKind.NONPAGED if kind.startswith("nonpaged") else PoolKind.PAGED if kind.startswith("paged") else None
        )
        if tag:
            blocks.append(Allocation(address, size, tag, pool, is_big=address % _PAGE_BYTES == 0))
    return blocks


def _iter_old_found(text: str) -> List[Allocation]:
    """The blocks of debuggers of XP's time; a line above them names the pool, or the command does."""
    if not _SEARCHED.search(text):
        return []
    blocks = []
    pool: Optional[PoolKind] = None
    asked: Optional[PoolKind] = None
    is_search = False
    for line in text.split("\n"):
        command = _COMMAND.search(line)
        searched = _SEARCHED.search(line)
        if command:
            asked = _COMMAND_POOLS.get(command[2] or "") or find_pool(command[1] or "")
        if searched:
            pool = find_pool(searched[1] or "") or asked
            is_search = True
        match = _OLD_FOUND.match(line) if is_search else None  # the list of !pool is of one page, whatever its tags
        tag = tag_of_text(match[4]) if match and match[3] == "Allocated" else None
        if match and tag:
            address = int(match[1].replace("`", ""), 16)
            blocks.append(Allocation(address, int(match[2], 16), tag, pool, is_big=False))
    return blocks


def parse_verifier(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """One snapshot of the allocations that ``!verifier 3`` lists, and which driver made each."""
    if not _VERIFIER_TITLES.search(file.text):
        return ()
    blocks: List[Allocation] = []
    drivers: Dict[StatedDriver, None] = {}
    counted: Dict[str, Tuple[int, Optional[int]]] = {}
    listed: Counter[str] = Counter()
    driver, pool = "", None
    for line in file.text.split("\n"):
        match = _VERIFIED_BLOCK.match(line)
        tag = tag_of_text(match[3]) if match else None
        if match and tag:
            address, size = int(match[1].replace("`", ""), 16), int(match[2], 16)
            blocks.append(Allocation(address, size, tag, pool, is_big=False))
            listed[driver] += 1
            caller = match[5] or f"0x{match[4]}"
            module = driver or (caller.partition("!")[0] if "!" in caller else "")
            if module:
                drivers[StatedDriver(tag, module, "!verifier", f"{module} allocates it at {caller}")] = None
            continue
        named = _VERIFIED.match(line)
        statistics = _STATISTICS.search(line)
        held = _HELD_BYTES.search(line)
        if named:
            driver, pool = named[1] or named[2], None
        elif held and driver in counted:
            counted[driver] = (counted[driver][0], int(held[1], 16) + int(held[2], 16))
        elif statistics:
            nonpaged, paged = int(statistics[1], 16), int(statistics[2], 16)
            counted[driver] = (nonpaged + paged, None)
            pool = PoolKind.NONPAGED if nonpaged and not paged else PoolKind.PAGED if paged and not nonpaged else None
    if not blocks:
        return ()
    warnings: Tuple[str, ...] = ("the allocations that !verifier lists are summed up: those of verified drivers only",)
    more = [driver for driver, (count, _) in counted.items() if driver and count > listed[driver]]
    for driver in more[:_MOST_DRIVERS]:
        count, held_bytes = counted[driver]
        size_words = "" if held_bytes is None else f", {format_bytes(held_bytes)}"
        warnings += (
            f"Driver Verifier counts {count_things(count, 'block')} of {driver} outstanding{size_words}: "
            "more than are listed",
        )
    return (_sum_blocks(blocks[:_MOST_BLOCKS], "!verifier text", file.path, warnings, tuple(drivers)),)


def _sum_blocks(
    blocks: List[Allocation],
    kind: str,
    path: str,
    warnings: Tuple[str, ...],
    drivers: Tuple[StatedDriver, ...],
) -> PoolSnapshot:
    sums: Dict[Tuple[PoolTag, Optional[PoolKind]], Tuple[int, int]] = {}
    seen = {(block.address, block.tag): block for block in blocks}
    for block in seen.values():
        count, size = sums.get((block.tag, block.pool), (0, 0))
        sums[block.tag, block.pool] = count + 1, size + block.size_bytes
    table = TagTable()
    for (tag, pool), (count, size) in sums.items():
        table.add(tag, pool or PoolKind.NONPAGED, PoolUsage(None, None, count, size))
    if any(pool is None for _, pool in sums):
        warnings = (*warnings, "the text does not say of each block which pool it is of; these are shown as nonpaged")
    return PoolSnapshot(
        SnapshotSource(kind, path),
        table.usages,
        warnings=(*warnings, *table.warnings),
        stated_drivers=drivers,
        blocks=tuple(seen.values()),
    )
