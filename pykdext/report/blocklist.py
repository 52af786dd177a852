"""The blocks of a tag as text."""

from __future__ import annotations

from typing import Iterator, List, Tuple

from pykdext.model import Allocation, BlockReport, BlockView, ContentsWitness, PointedPlace, PoolKind
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, link_cells, link_words, render_lines
from pykdext.report.sentences.tags import verdict_on_blocks
from pykdext.units import choose_form, count_things, format_address, format_bytes, format_count, format_share, say_rest

SIZES_SHOWN = 10
DRIVERS_SHOWN = 10


def render_blocks_text(report: BlockReport, width: int, markup: Markup = PLAIN) -> str:
    """What was found of what the tables count, the sizes, and a sample of the blocks with their first bytes."""
    links = Links(report.source)
    title = f"{report.source.path or 'session'}: blocks of {report.tag}"
    lines: List[Line] = [*link_words([title], report.tag.text, links.tag(report.tag)), ""]
    lines += format_table(
        ("Type", "Diff", "Bytes", "Found", "Bytes", "Of Diff"),
        [_found_row(report, pool) for pool in PoolKind],
        ("left", "right", "right", "right", "right", "right"),
        width,
    )
    likely = sum(block.is_likely for block in report.found)
    if likely:
        text = f"Of the blocks found {_say_are(likely)} likely: in rows of equal blocks"
        lines += wrap(f"{text}, whose bitmap cannot be read.", width)
    uncertain = sum(not (block.is_certain or block.is_likely) for block in report.found)
    if uncertain:
        text = f"Of the blocks found {_say_are(uncertain)} known by the header alone, which may be a leftover"
        lines += wrap(f"{text}.", width)
    if report.freed:
        bear = "bears the tag but is free" if report.freed == 1 else "bear the tag but are free"
        lines += wrap(f"{count_things(report.freed, 'more block')} {bear}.", width)
    if report.stated:
        lines += wrap(f"{verdict_on_blocks(report)}", width)
    if report.found:
        lines += ["", *_size_table(report), "", *_sample_table(report.sample, width, links)]
    if report.witness is not None and report.witness.drivers:
        lines += ["", *_pointer_table(report.witness, width, links)]
    warnings = link_words(warning_lines(report.warnings, width), "!poolfind", links.blocks(report.tag))
    return render_lines([*lines, *warnings], markup, width)


def _say_are(count: int) -> str:
    return f"{format_count(count)} {choose_form(count, 'is', 'are')}"


def _found_row(report: BlockReport, pool: PoolKind) -> Tuple[str, ...]:
    blocks = [block for block in report.found if block.pool is pool]
    counted = report.counted.usage(pool)
    share = len(blocks) / counted.outstanding if counted.outstanding else None
    return (
        pool.label,
        format_count(counted.outstanding),
        format_count(counted.bytes),
        format_count(len(blocks)),
        format_count(sum(block.size_bytes for block in blocks)),
        format_share(share),
    )


def _size_table(report: BlockReport) -> List[str]:
    rows = [
        (f"{size:x}h", format_count(count), format_bytes(size * count)) for size, count in report.sizes[:SIZES_SHOWN]
    ]
    lines = format_table(("Block size", "Blocks", "Bytes"), rows, ("right", "right", "right"))
    if len(report.sizes) > SIZES_SHOWN:
        lines.append(say_rest(len(report.sizes), SIZES_SHOWN, "size"))
    return lines


def _sample_table(sample: Tuple[BlockView, ...], width: int, links: Links) -> List[Line]:
    """The blocks, each with as many of its first bytes as the line has room for whole."""
    places = [
        (
            format_address(view.block.address),
            f"{view.block.size_bytes:x}h",
            view.block.pool.label if view.block.pool else "-",
            _kind(view.block),
        )
        for view in sample
    ]
    headers, align = ("Address", "Size", "Type", "Kind"), ("left", "right", "left", "left")
    room = width - len(format_table(headers, places, align)[1]) - 2
    shown = max(1, (room + 1) // len("00 "))
    rows = [(*place, " ".join(_hex_words(view.head[:shown]))) for place, view in zip(places, sample)]
    table = format_table((*headers, "First bytes"), rows, (*align, "left"), width)
    return link_cells(table, 0, [links.block(view.block.address) for view in sample])


def _pointer_table(witness: ContentsWitness, width: int, links: Links) -> List[Line]:
    """The drivers that the blocks point at."""
    drivers = witness.drivers[:DRIVERS_SHOWN]
    rows = [
        (
            format_share(driver.share_of_blocks),
            driver.module + (" (unloaded)" if driver.unloaded else ""),
            ", ".join(map(_place_text, driver.places)),
        )
        for driver in drivers
    ]
    headers = (f"Of {witness.blocks_sampled}", "Point at", "Places, and the share of the blocks")
    table = format_table(headers, rows, ("right", "left", "left"), width)
    return link_cells(table, 1, [None if driver.unloaded else links.module(driver.module) for driver in drivers])


def _place_text(place: PointedPlace) -> str:
    where = "its driver or device object" if place.rva is None else f"{place.what} +0x{place.rva:x}"
    return f"{where} ({format_share(place.share_of_blocks)})"


def _kind(block: Allocation) -> str:
    if block.is_big:
        return "big"
    if block.is_certain:
        return "small"
    return "likely" if block.is_likely else "small?"


def _hex_words(head: bytes) -> Iterator[str]:
    """As WinDbg's ``db`` shows them: bytes in memory order, and ``?`` for what is not in memory."""
    return (f"{byte:02x}" for byte in head) if head else iter("?")
