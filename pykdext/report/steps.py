"""Next steps as text: commands in one column, and what they are for."""

from __future__ import annotations

from typing import Iterator, Sequence

from pykdext.model import NextStep
from pykdext.report.layout import wrap
from pykdext.report.links import Links
from pykdext.report.markup import Line, link_words

COMMAND_COLUMNS = 48
"""Longer commands (with long paths) stand on a line of their own."""


def step_lines(steps: Sequence[NextStep], width: int, links: Links) -> Iterator[Line]:
    """What to do next: commands, linked where the markup has links, and what they are for."""
    commands = [step.command for step in steps if step.command]
    column = max((len(command) for command in commands if len(command) <= COMMAND_COLUMNS), default=0) + 4
    for step in steps:
        if step.command is None:
            yield from wrap(step.why, width, "  ", "      ")
        elif len(step.command) <= COMMAND_COLUMNS:
            lines = wrap(step.why, width, f"  {step.command}".ljust(column), " " * column)
            yield from link_words(lines, step.command, links.command(step.command))
        else:
            yield from link_words([f"  {step.command}"], step.command, links.command(step.command))
            yield from wrap(step.why, width, " " * column)
