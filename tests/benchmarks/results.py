"""What a benchmark found: samples of each tool on the same work, and the table of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from tabulate import tabulate

OURS = "pykdext"

_HEADERS = ("work", "tool", "unit", "best", "median", f"{OURS} / tool", "target", "")


@dataclass(frozen=True)
class Unit:
    """How samples, which are seconds or bytes, are shown. Less is better in samples, not always in what is shown."""

    name: str
    shown: Callable[[float], float]
    comparison: str = "<="


MILLISECONDS = Unit("ms", lambda seconds: seconds * 1e3)
MICROSECONDS_A_PIECE = Unit("us each", lambda seconds: seconds * 1e6)
MEGABYTES = Unit("MB", lambda size_bytes: size_bytes / 1e6)


def rate_of(size_bytes: int) -> Unit:
    """Shows the seconds that work on ``size_bytes`` took as MB/s."""
    return Unit("MB/s", lambda seconds: size_bytes / 1e6 / seconds, ">=")


@dataclass
class Work:
    """The samples of each tool on one piece of work.

    ``limit`` bounds our own best sample (seconds or bytes), ``ratio_limits`` our best sample over that of a tool.
    ``ours`` is the tool that the others are compared with.
    """

    name: str
    unit: Unit
    samples: Dict[str, List[float]] = field(default_factory=dict)
    limit: Optional[float] = None
    ratio_limits: Mapping[str, float] = field(default_factory=dict)
    ours: str = OURS

    def add(self, tool: str, sample: float) -> None:
        """Add one sample of a tool."""
        self.samples.setdefault(tool, []).append(sample)

    def rows(self) -> Iterator[Sequence[str]]:
        """One line of the table for each tool."""
        for tool, samples in self.samples.items():
            ratio = self._ratio(tool)
            yield (
                self.name,
                tool,
                self.unit.name,
                _three_digits(self.unit.shown(min(samples))),
                _three_digits(self.unit.shown(statistics.median(samples))),
                "" if ratio is None else _three_digits(ratio),
                *self._target(tool, ratio),
            )

    @property
    def is_missed(self) -> bool:
        """Whether a target of this work was missed."""
        return any(row[-1] == "MISSED" for row in self.rows())

    def _ratio(self, tool: str) -> Optional[float]:
        if tool == self.ours or self.ours not in self.samples:
            return None
        return min(self.samples[self.ours]) / min(self.samples[tool])

    def _target(self, tool: str, ratio: Optional[float]) -> Sequence[str]:
        """The target in the tool's line, and whether it was met."""
        if tool == self.ours and self.limit is not None:
            target = f"{self.unit.comparison} {_three_digits(self.unit.shown(self.limit))} {self.unit.name}"
            return target, _verdict(min(self.samples[tool]), self.limit)
        if ratio is not None and tool in self.ratio_limits:
            limit = self.ratio_limits[tool]
            return f"<= {_three_digits(limit)}", _verdict(ratio, limit)
        return "", ""


@dataclass
class Report:
    """The outcome of one benchmark; ``notes`` say what was left out, and why.

    ``tables`` are results that no time or size is measured of; ``missed`` are targets that they missed.
    """

    works: List[Work] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    tables: List[str] = field(default_factory=list)
    missed: List[str] = field(default_factory=list)

    @property
    def is_missed(self) -> bool:
        """Whether any target was missed."""
        return bool(self.missed) or any(work.is_missed for work in self.works)


def render_reports(reports: Sequence[Report]) -> str:
    """One table of all that was measured, the other tables, then the notes."""
    rows: List[Sequence[str]] = []
    for report in reports:
        for work in report.works:
            named = list(work.rows())
            rows += [row if number == 0 else ("", *row[1:]) for number, row in enumerate(named)]
    alignment = ("left", "left", "left", "right", "right", "right", "left", "left")
    tables = [table for report in reports for table in report.tables]
    if rows or not tables:
        timed = tabulate(rows, headers=_HEADERS, colalign=alignment, disable_numparse=True) if rows else "no results"
        tables.insert(0, timed)
    notes = list(dict.fromkeys(note for report in reports for note in (*report.notes, *report.missed)))
    return "\n".join(["\n\n".join(tables), *(["", *notes] if notes else [])])


def _verdict(found: float, limit: float) -> str:
    return "met" if found <= limit else "MISSED"


def _three_digits(number: float) -> str:
    """A number with about three digits that count, never in exponential form."""
    decimals = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3 if number >= 0.01 else 5
    return f"{number:,.{decimals}f}"
