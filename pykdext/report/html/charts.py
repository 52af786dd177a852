"""What the charts of a page show: bars and curves as places in percent, which the templates draw as SVG.

Nothing of it needs JavaScript. All words stand beside the drawings as text of the page, so that they keep their size on
a phone, can be selected, and are escaped as any other; colours are named by what they mean and come from the style.
"""

from __future__ import annotations

from typing import AbstractSet, Dict, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolKind, PoolSnapshot, PoolTag, Role, TagDelta
from pykdext.model.fleet import BatchSummary, CommonCause
from pykdext.model.memory import PageFrames
from pykdext.report.poolnames import name_pool, name_tag
from pykdext.report.sentences.batches import name_driver, name_group
from pykdext.units import choose_form, count_things, format_bytes, format_rate

TAGS_SHOWN = 8
"""Tags of a pool that get a bar of their own."""

CHANGES_SHOWN = 12
CAUSES_SHOWN = 10

_Held = Tuple[PoolTag, PoolKind]


class Bar(NamedTuple):
    """A bar: whose, the words at its end, where it begins and how long it is in percent, and what its colour means.

    ``tone`` is ``leak``, ``plain``, ``object`` or ``rest``.
    """

    name: str
    words: str
    start: float
    length: float
    tone: str


class BarChart(NamedTuple):
    """Bars from left to right, the first at the top, and in words what they show."""

    title: str
    summary: str
    bars: Sequence[Bar]


class Share(NamedTuple):
    """A part of a bar that shows a whole: start and length in percent, what it is, and the number of its colour."""

    name: str
    start: float
    length: float
    words: str
    number: int


class _Amount(NamedTuple):
    name: str
    bytes: int
    words: str
    tone: str


def draw_composition(snapshot: PoolSnapshot, suspects: AbstractSet[_Held]) -> List[BarChart]:
    """A chart of each pool whose tags are known: the largest ones and the rest, suspects standing out."""
    if snapshot.coverage.lacks_counts:  # bars compare what tags hold, which is not known
        return []
    return [
        _draw_pool(name_pool(pool, snapshot), held, {tag for tag, held_in in suspects if held_in is pool})
        for pool in PoolKind
        if (held := _largest_tags(snapshot, pool))
    ]


def _draw_pool(name: str, held: Sequence[Tuple[Optional[PoolTag], int]], suspects: AbstractSet[PoolTag]) -> BarChart:
    return BarChart(
        f"{name[0].upper()}{name[1:]}",
        f"Tags by what they hold; those after the {TAGS_SHOWN} largest together, suspects in red.",
        _lay_out(
            [
                _Amount(
                    tag.text if tag else "all others",
                    size,
                    format_bytes(size),
                    "rest" if tag is None else "leak" if tag in suspects else "plain",
                )
                for tag, size in held
            ]
        ),
    )


def draw_changes(rows: Sequence[TagDelta], after: PoolSnapshot) -> List[BarChart]:
    """A chart of the largest changes among the rows, in bytes; empty if no bytes changed."""
    changed = [(delta, delta.bytes) for delta in rows if delta.bytes]
    largest = sorted(changed, key=lambda item: abs(item[1]), reverse=True)[:CHANGES_SHOWN]
    amounts = [
        _Amount(
            name_tag(str(delta.tag), delta.pool, after),
            change,
            format_rate(change),
            "leak" if change > 0 else "plain",
        )
        for delta, change in largest
    ]
    change = choose_form(len(amounts), "change", count_things(len(amounts), "largest change"))
    summary = f"The {change} of the rows below; what grew in red, what shrank in blue."
    return [BarChart("What changed", summary, _lay_out(amounts))] if amounts else []


def draw_causes(summary: BatchSummary) -> List[BarChart]:
    """A chart of what each common cause holds on all hosts where it leaks; empty without causes.

    Objects of Windows stand below the causes: they are victims of somebody.
    """
    ordered = sorted(summary.common, key=lambda cause: cause.role is Role.OBJECT)
    amounts = [
        _Amount(
            (name_group(cause) if cause.companions else f"{cause.tag} {cause.pool.label}")
            + ", "
            + (
                "an object of Windows"
                if cause.role is Role.OBJECT
                else name_driver(cause)
                if cause.module
                else "owner not known"
            ),
            _held_with_companions(cause),
            f"{format_bytes(_held_with_companions(cause))} on {len(cause.hosts)} of {summary.hosts}",
            "object" if cause.role is Role.OBJECT else "leak",
        )
        for cause in ordered[:CAUSES_SHOWN]
    ]
    words = "What each leaking tag holds on all hosts together, and on how many of them it leaks."
    return [BarChart("Common causes", words, _lay_out(amounts))] if amounts else []


def _held_with_companions(cause: CommonCause) -> int:
    return cause.bytes + sum(companion.bytes for companion in cause.companions)


def draw_uses(frames: PageFrames) -> List[Share]:
    """The page frames by use as parts of one bar, the largest first; frames that were not told apart leave a gap."""
    whole = max(frames.expected, sum(count.frames for count in frames.uses), 1)
    parts: List[Share] = []
    start = 0.0
    for number, count in enumerate(frames.uses):
        length = 100 * count.frames / whole
        words = f"{count.use.value}: {format_bytes(count.frames * frames.frame_bytes)}"
        parts.append(Share(count.use.value, round(start, 3), round(length, 3), words, number))
        start += length
    return parts


def _lay_out(amounts: Sequence[_Amount]) -> List[Bar]:
    """Bars on one scale; where some are negative, they go to the left of a common line."""
    lowest, highest = min((0, *(item.bytes for item in amounts))), max((0, *(item.bytes for item in amounts)))
    whole = (highest - lowest) or 1
    return [
        Bar(
            item.name,
            item.words,
            round(100 * (min(item.bytes, 0) - lowest) / whole, 3),
            round(100 * abs(item.bytes) / whole, 3),
            item.tone,
        )
        for item in amounts
    ]


def _largest_tags(snapshot: PoolSnapshot, pool: PoolKind) -> List[Tuple[Optional[PoolTag], int]]:
    """The largest tags of a pool with their bytes, and behind them None with what all others hold."""
    held: Dict[PoolTag, int] = {row.tag: used for row in snapshot.tags if (used := row.usage(pool).bytes)}
    ordered = sorted(held.items(), key=lambda item: item[1], reverse=True)
    bars: List[Tuple[Optional[PoolTag], int]] = [*ordered[:TAGS_SHOWN]]
    rest = sum(used for _, used in ordered[TAGS_SHOWN:])
    return [*bars, (None, rest)] if rest else bars
