"""The file of the dump that the debugger has open: what would take hours through the debugger is read from it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Iterator, Optional, Union

from pykdext.errors import PykdextError
from pykdext.model import TargetFacts
from pykdext.targets.protocol import Target

if TYPE_CHECKING:
    from pykdext.targets.dump.crashdump import CrashDump
    from pykdext.targets.dump.triage import TriageDump
    from pykdext.targets.session.session import Session

_SAME_TIME = timedelta(seconds=2)
"""pykd tells whole seconds."""


@contextmanager
def open_whole_memory(target: Target) -> Iterator[Optional[Target]]:
    """The target through which all memory of ``target`` can be searched, for the time of the block.

    That is a dump itself, and for a session the file of its dump. None for a live machine, for a dump that holds no
    list of its pages, and where the file is not at hand: on another machine, in an archive, replaced by another one.
    """
    if target.facts.pages_present is not None:
        yield target
        return
    from pykdext.targets.session.session import Session

    file = None
    if isinstance(target, Session) and target.dump_path is not None:
        file = _open_same(target, target.dump_path)
    try:
        yield file
    finally:
        if file is not None:
            file.close()


def _open_same(session: Session, path: str) -> Optional[Union[CrashDump, TriageDump]]:
    """The dump in a file, if it is that of the session and its pages are known."""
    from pykdext.targets.dump.crashdump import open_crashdump

    with ExitStack() as opened:
        try:
            file = open_crashdump(path)
            opened.callback(file.close)
            is_same = file.facts.pages_present is not None and _is_same(session, file)
        except (PykdextError, OSError):
            return None
        if not is_same:
            return None
        opened.pop_all()
        return file


def _is_same(one: Target, other: Target) -> bool:
    return (
        one.machine is other.machine
        and [module.base for module in one.modules()[:1]] == [module.base for module in other.modules()[:1]]
        and _is_same_time(one.facts, other.facts)
    )


def _is_same_time(one: TargetFacts, other: TargetFacts) -> bool:
    """Dumps of one boot have the same modules; None: not told."""
    return one.taken_at is None or other.taken_at is None or abs(one.taken_at - other.taken_at) < _SAME_TIME
