"""What the charts of a page show, as plotly's figures: the library itself runs in the page.

Plotly takes some of HTML for markup in every label, so that foreign text is escaped for it; texts and lines get their
final colours from the page's style, which knows light, dark and paper.
"""

from __future__ import annotations

import html
import itertools
from typing import AbstractSet, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import BatchSummary, PoolKind, PoolSnapshot, PoolTag, TagDelta, Trend, TrendReport
from pykdext.printable import make_visible
from pykdext.report.sentences.batches import name_driver
from pykdext.units import format_bytes, format_moment, format_rate

TAGS_SHOWN = 8
"""Tags of a pool that get a bar of their own."""

CHANGES_SHOWN = 12
CURVES_SHOWN = 8
CAUSES_SHOWN = 10

_ACCENT, _CALM, _REST = "#d1495b", "#4f81bd", "#8d99ae"
_CURVES = ("#d1495b", "#4f81bd", "#2a9d8f", "#e08e45", "#8e6bbf", "#5fa8d3", "#b08968", "#7f8c5a")
_DASHES = ("solid", "dash", "dot", "dashdot")
"""Curves differ by more than colour: on paper, and for eyes that do not tell red from green."""

_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")

_Held = Tuple[PoolTag, PoolKind]


class Chart(NamedTuple):
    """A figure of plotly with its title, and in words what it shows. The height is in pixels."""

    name: str
    title: str
    summary: str
    height: int
    data: List[Dict[str, Any]]
    layout: Dict[str, Any]

    @property
    def figure(self) -> Dict[str, Any]:
        """What the page's script hands to plotly."""
        return {"name": self.name, "data": self.data, "layout": {**self.layout, "height": self.height}}


def draw_composition(snapshot: PoolSnapshot, suspects: AbstractSet[_Held]) -> List[Chart]:
    """A chart of each pool whose tags are known: the largest ones and the rest, suspects standing out."""
    return [
        _draw_pool(pool, bars, {tag for tag, held_in in suspects if held_in is pool})
        for pool in PoolKind
        if (bars := _largest_tags(snapshot, pool))
    ]


def _draw_pool(pool: PoolKind, bars: Sequence[Tuple[Optional[PoolTag], int]], suspects: AbstractSet[PoolTag]) -> Chart:
    return _draw_bars(
        f"composition-{pool.value}",
        f"{pool.value.capitalize()} pool",
        f"The {TAGS_SHOWN} largest tags and the rest together; suspects in red.",
        [
            _Bar(
                tag.text if tag else "all others",
                size,
                format_bytes(size),
                _REST if tag is None else _ACCENT if tag in suspects else _CALM,
            )
            for tag, size in bars
        ],
    )


def draw_growth(report: TrendReport, shown: Sequence[Trend]) -> List[Chart]:
    """A chart of the bytes of the first trends over time; empty without trends."""
    curves = shown[:CURVES_SHOWN]
    if not curves:
        return []
    divisor, unit = _choose_unit(max(held for trend in curves for held in trend.bytes if held is not None))
    moments = [format_moment(moment, zone=False) for moment in report.moments]
    places = moments or [str(number) for number in range(1, report.samples + 1)]
    data: List[Dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{_plain(trend.tag.text)} {trend.pool.label}",
            "x": places,
            "y": [None if held is None else held / divisor for held in trend.bytes],
            "text": [format_bytes(held) for held in trend.bytes],
            "hovertemplate": "%{text}",
            "line": {"color": colour, "dash": dash, "width": 2},
        }
        for trend, colour, dash in zip(curves, _CURVES, itertools.cycle(_DASHES))
    ]
    layout = {
        **_layout(),
        "showlegend": True,
        "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {**_axis(None), "type": "date"},
        "yaxis": {**_axis(unit), "rangemode": "tozero"},
    }
    count = f"the first {CURVES_SHOWN} of {len(shown)} rows" if len(shown) > CURVES_SHOWN else "the rows"
    summary = f"Bytes held at each sample (UTC), of {count} of the table below."
    return [Chart("growth", "How they grow", summary, 340, data, layout)]


def draw_changes(rows: Sequence[TagDelta]) -> List[Chart]:
    """A chart of the largest changes among the rows, in bytes; empty if no bytes changed."""
    changed = [(delta, delta.bytes) for delta in rows if delta.bytes]
    largest = sorted(changed, key=lambda item: abs(item[1]), reverse=True)[:CHANGES_SHOWN]
    bars = [
        _Bar(f"{delta.tag} {delta.pool.label}", change, format_rate(change), _ACCENT if change > 0 else _CALM)
        for delta, change in largest
    ]
    summary = f"The {len(bars)} largest changes of the rows below; what grew in red, what shrank in blue."
    return [_draw_bars("changes", "What changed", summary, bars)] if bars else []


def draw_causes(summary: BatchSummary) -> List[Chart]:
    """A chart of what each common cause holds on all hosts where it leaks; empty without causes."""
    bars = [
        _Bar(
            f"{cause.tag} {cause.pool.label}, {name_driver(cause) if cause.module else 'owner not known'}",
            cause.bytes,
            f"{format_bytes(cause.bytes)} on {len(cause.hosts)} of {summary.hosts}",
            _ACCENT,
        )
        for cause in summary.common[:CAUSES_SHOWN]
    ]
    words = "What each leaking tag holds on all hosts together, and on how many of them it leaks."
    return [_draw_bars("causes", "Common causes", words, bars)] if bars else []


class _Bar(NamedTuple):
    """A bar: whose, how many bytes, the words at its end."""

    name: str
    bytes: int
    words: str
    colour: str


def _draw_bars(name: str, title: str, summary: str, bars: Sequence[_Bar]) -> Chart:
    """Bars from left to right, the first at the top; the axis leaves room for the words at their ends."""
    lowest, highest = min(0, *(bar.bytes for bar in bars)), max(0, *(bar.bytes for bar in bars))
    divisor, unit = _choose_unit(max(highest, -lowest))
    room = (0.1 + 0.022 * max(len(bar.words) for bar in bars)) * (highest - lowest)
    data: List[Dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [bar.bytes / divisor for bar in bars],
            "y": list(range(len(bars))),
            "text": [_plain(bar.words) for bar in bars],
            "textposition": "outside",
            "cliponaxis": False,
            "hoverinfo": "none",
            "marker": {"color": [bar.colour for bar in bars]},
        }
    ]
    layout = {
        **_layout(),
        "xaxis": {
            **_axis(unit),
            "range": [(lowest - room * (lowest < 0)) / divisor, (highest + room * (highest > 0)) / divisor],
            "zeroline": True,
        },
        "yaxis": {
            **_axis(None),
            "autorange": "reversed",
            "showgrid": False,
            "tickvals": list(range(len(bars))),
            "ticktext": [_plain(bar.name) for bar in bars],
        },
    }
    return Chart(name, title, summary, 64 + 26 * len(bars), data, layout)


def _largest_tags(snapshot: PoolSnapshot, pool: PoolKind) -> List[Tuple[Optional[PoolTag], int]]:
    """The largest tags of a pool with their bytes, and behind them None with what all others hold."""
    held = [(row.tag, used) for row in snapshot.tags if (used := row.usage(pool).bytes)]
    held.sort(key=lambda item: item[1], reverse=True)
    bars: List[Tuple[Optional[PoolTag], int]] = [*held[:TAGS_SHOWN]]
    rest = sum(used for _, used in held[TAGS_SHOWN:])
    return [*bars, (None, rest)] if rest else bars


def _choose_unit(largest: float) -> Tuple[int, str]:
    """The divisor and the name of the unit in which a number of bytes has few digits."""
    power = 0
    while largest >= 1024 and power < len(_UNITS) - 1:
        largest /= 1024
        power += 1
    return 1024**power, _UNITS[power]


def _plain(text: str) -> str:
    """Foreign text as plotly's markup, which knows some tags and entities of HTML."""
    return html.escape(make_visible(text))


def _layout() -> Dict[str, Any]:
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 13},
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        "showlegend": False,
        "bargap": 0.3,
        "dragmode": False,
    }


def _axis(title: Optional[str]) -> Dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "automargin": True,
        "fixedrange": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 6,
        "tickcolor": "rgba(0,0,0,0)",
    }
