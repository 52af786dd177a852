"""What a process that reads a dump is told, and what it answers: values that JSON can carry to any machine."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

from pykdext.printable import hide_secrets


class Task(NamedTuple):
    """One dump to read.

    Attributes:
        path: file or URL, with its secrets. pooltags, symbols: as on the command line. top: at most so many suspects.
        timeout_seconds: after which its process is ended.
    """

    path: str
    timeout_seconds: float
    top: Optional[int] = None
    pooltags: Optional[str] = None
    symbols: Optional[str] = None

    @property
    def shown_path(self) -> str:
        """The path as it may be told to anybody."""
        return hide_secrets(self.path)


class Answer(NamedTuple):
    """What became of a dump.

    Attributes:
        status: value of a ``DumpStatus``. seconds: it took. error: one line, where there is no report.
        report: ``poolleak.report/1``. state: ``poolleak.snapshot/1`` with all tags.
        drivers: ``name``, ``version`` and ``company`` of each loaded driver.
        fetched_bytes: what came over a network; None for a file of the machine that read it.
    """

    status: str
    seconds: float
    error: Optional[str] = None
    report: Optional[Dict[str, Any]] = None
    state: Optional[Dict[str, Any]] = None
    drivers: List[Dict[str, Any]] = []  # noqa: RUF012 - never changed
    fetched_bytes: Optional[int] = None
