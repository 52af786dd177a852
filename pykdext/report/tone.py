"""How an answer is to be taken at a glance: the colour of a page's verdict, of a terminal's, and of roles."""

from __future__ import annotations

import enum


class Tone(enum.Enum):
    """What a colour means."""

    ALARMING = "alarming"
    CALM = "calm"
    """All was read, and nothing stands out."""
    OPEN = "open"
    """Nothing was found, but that says little: there is no verdict, or part of what it needs is missing."""

    @classmethod
    def of(cls, *, alarming: bool, known: bool) -> Tone:
        """``known``: enough was read for silence to mean health."""
        return cls.ALARMING if alarming else cls.CALM if known else cls.OPEN
