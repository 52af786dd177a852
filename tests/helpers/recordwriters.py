"""Writers of logs, one a form and layout; they share nothing with the readers. Also what a log is made of."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

from hypothesis import strategies as st


class Row(NamedTuple):
    """A line of poolmon's table; ``tag`` in memory order."""

    tag: bytes
    pool: str  # Nonp or Paged
    allocs: int
    frees: int
    size: int

    @property
    def diff(self):
        return self.allocs - self.frees

    @property
    def each(self):
        return self.size // self.diff if self.diff else 0

    @property
    def counts(self):
        return (self.allocs, self.frees, self.diff, self.size)


HEAD = b"""\
 Memory:16468560K Avail:12072536K  PageFlts:468600648   InRam Krnl:56708K P:950888K
 Commit:4100436K Limit:17517136K Peak:11685564K            Pool N:710920K P:983564K
"""
TITLES = b" Tag  Type     Allocs            Frees            Diff   Bytes       Per Alloc\n\n"


def narrow(row):
    return b" %b %-5b %10d %9d %9d %8d %10d" % (row.tag, row.pool.encode(), *row.counts, row.each)


def wide(row):
    return b" %b %-5b %20d %18d %17d %14d %16d" % (row.tag, row.pool.encode(), *row.counts, row.each)


def with_changes(row):
    numbers = (row.allocs, 7, row.frees, -3, row.diff, row.size, 4096, row.each)
    return b" %b %-5b %10d (%4d) %9d (%4d) %8d %7d (%6d) %6d" % (row.tag, row.pool.encode(), *numbers)


def with_mapped_driver(row):
    return with_changes(row) + b" [ntfs.sys  -  StrucSup.c, 1394 of 2]"


LAYOUTS = {"narrow": narrow, "wide": wide, "changes": with_changes, "mapped driver": with_mapped_driver}


def write_poolmon(rows, layout=narrow, head=HEAD, newline=b"\r\n", before=b""):
    """What ``poolmon -n`` saves; ``before`` stands above, as ``echo`` puts it there."""
    lines = before + head + b"\n" + TITLES + b"".join(layout(row) + b"\n" for row in rows)
    return lines.replace(b"\n", newline)


ENCODINGS = {
    "bytes": bytes,
    "utf-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "utf-16 without mark": lambda data: data.decode("latin-1").encode("utf-16-le"),
    "utf-8 with mark": lambda data: data.decode("latin-1").encode("utf-8-sig"),
}


def pair_sides(rows):
    """Tag by tag: the numbers (allocs, frees, diff, bytes) of the nonpaged and the paged side, zeros where unused."""
    sides = {}
    for row in rows:
        sides.setdefault(row.tag, {"Nonp": (0, 0, 0, 0), "Paged": (0, 0, 0, 0)})[row.pool] = row.counts
    return {tag: (side["Nonp"], side["Paged"]) for tag, side in sides.items()}


def write_poolused(rows, *, verbose=False, glued=False, total=True, prompt="0: kd> !poolused 2\n"):
    """The text of ``!poolused``, modern, or with descriptions glued to the last number as old debuggers print."""
    if verbose:
        titles = " Tag" + "       Allocs       Frees      Diff         Used" * 2
        widths = (11, 11, 9, 12, 12, 11, 9, 12)
    else:
        titles = " Tag" + "     Allocs         Used" * 2
        widths = (9, 12, 10, 12)
    text = f"{prompt} Sorting by NonPaged Pool Consumed\n\n               NonPaged                  Paged\n{titles}\n\n"
    sums = [0] * len(widths)
    for tag, sides in pair_sides(rows).items():
        numbers = [number for side in sides for number in (side if verbose else side[2:])]
        sums = [left + right for left, right in zip(sums, numbers)]
        shown = " ".join(f"{number:>{width}}" for number, width in zip(numbers, widths))
        name = tag.decode("latin-1")
        text += f" {name} {shown}{'' if glued else chr(9)}UNKNOWN pooltag '{name}', please update pooltag.txt\n"
    if total:
        text += f"\nTOTAL {' '.join(map(str, sums))}\n"
    return text.encode("latin-1")


WIDE_TITLES = (
    "PagedAllocs PagedFrees PagedDiff PagedUsedBytes NonPagedAllocs NonPagedFrees NonPagedDiff NonPagedUsedBytes"
)


def write_csv(titles, rows, delimiter=",", newline="\r\n"):
    out = io.StringIO()
    table = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=newline)
    table.writerow(titles)
    table.writerows(rows)
    return out.getvalue()


def write_clone_csv(rows, time="2019-07-24T12:21:57", delimiter=","):
    """The CSV of the PowerShell scripts named poolmon: one row a tag, both pools."""
    titles = ["DateTime", "Tag", *WIDE_TITLES.split(), "TotalUsedBytes", "Binary"]
    table = [
        [time, tag.decode("latin-1"), *paged, *nonpaged, paged[3] + nonpaged[3], "fltmgr.sys"]
        for tag, (nonpaged, paged) in pair_sides(rows).items()
    ]
    return write_csv(titles, table, delimiter)


def write_poolmonx_csv(rows):
    """The list of PoolMonX as text: one row a tag and pool."""
    titles = ["Tag", "Type", "Allocs", "Frees", "Diff", "Bytes", "KBytes", "B / Alloc", "Source"]
    names = {"Nonp": "Non Paged", "Paged": "Paged"}
    table = [
        [row.tag.decode("latin-1"), names[row.pool], *row.counts, f"{(row.size + 512) >> 10} KB", row.each, "nt"]
        for row in rows
    ]
    return write_csv(titles, table, ",", "\n")


RECIPE_TITLES = (
    "TimeUtc,Host,UptimeSeconds,SystemNonpagedBytes,SystemPagedBytes,SystemCommitBytes,SystemCommitLimitBytes,"
    "SystemPhysicalBytes,SystemAvailableBytes,Hex,Tag,PagedAllocs,PagedFrees,PagedBytes,NonpagedAllocs,NonpagedFrees,"
    "NonpagedBytes"
)


def write_recipe_csv(rows, time="2024-11-12T03:41:27Z", host="SRV1", facts="987654,1000,2000,3000,4000,5000,6000"):
    """A sample of the capture recipe."""
    lines = [RECIPE_TITLES]
    for number, (tag, (nonpaged, paged)) in enumerate(pair_sides(rows).items()):
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x22 else "?" for byte in tag)
        counts = [paged[0], paged[1], paged[3], nonpaged[0], nonpaged[1], nonpaged[3]]
        lines.append(
            f'{time},{host},{",,,,,," if number else facts},{tag.hex()},"{shown}",{",".join(map(str, counts))}'
        )
    return "\r\n".join([*lines, ""])


tags = st.binary(min_size=4, max_size=4).filter(lambda tag: b"\n" not in tag and b"\r" not in tag and tag[3] < 0x80)
"""Any tag that a text file can hold: no line end, PROTECTED_POOL cleared."""

printable_tags = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=4, max_size=4).map(str.encode)


@st.composite
def row_of(draw, tag, pool):
    allocs = draw(st.integers(0, 2**32 - 1))
    frees = draw(st.integers(0, allocs))
    return Row(tag, pool, allocs, frees, draw(st.integers(0, 2**40)) if allocs > frees else 0)


@st.composite
def tables(draw, tags=tags, min_size=1):
    """Rows of a whole table: no tag twice in a pool, each pool with a row."""
    rows = [
        draw(row_of(tag, pool))
        for pool in ("Nonp", "Paged")
        for tag in draw(st.lists(tags, min_size=min_size, max_size=6, unique=True))
    ]
    return draw(st.permutations(rows))


def as_rows(snapshot):
    """The rows of a snapshot as this module writes them; the sides that say nothing or zero are left out."""
    found = []
    for entry in snapshot.tags:
        for pool, usage in (("Nonp", entry.nonpaged), ("Paged", entry.paged)):
            if not usage.is_idle:
                found.append((entry.tag.raw, pool, usage.allocs, usage.frees, usage.outstanding, usage.bytes))
    return sorted(found)


def expected_rows(rows, with_counts=True):
    found = [(row.tag, row.pool, *(row.counts if with_counts else (None, None, *row.counts[2:]))) for row in rows]
    return sorted(row for row in found if any(row[2:]))
