"""Opening a source: recognised by its content, read into a snapshot; a dump or session also into its kernel."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, FrozenSet, Iterator, Optional, Tuple

from pykdext.errors import LayoutNotFoundError, PykdextError, SymbolNotFoundError, TargetError
from pykdext.model import DumpSummary, PoolSnapshot
from pykdext.printable import hide_secrets
from pykdext.records.recognition import HEAD_BYTES, is_log_head
from pykdext.records.textfile import MAX_TEXT_BYTES as MAX_STREAM_BYTES
from pykdext.store.source import StoredSource, find_stored_source
from pykdext.targets.dump.compressed import is_dump_head
from pykdext.targets.dump.remote import is_remote
from pykdext.targets.session.debugger import is_in_debugger
from pykdext.work import UNWATCHED, Work

if TYPE_CHECKING:  # what reads memory is imported where there is memory: a log needs none of it
    from pykdext.images.image import Image
    from pykdext.kernel.kernel import Kernel
    from pykdext.targets.dump.base import Traffic
    from pykdext.targets.protocol import Target

STANDARD_INPUT = "-"

_BINARY_LOGS = {
    ".blg": (
        "a binary log of Performance Monitor",
        "relog FILE.blg -f csv -o pool.csv on Windows makes the table of counters that is read",
    ),
    ".etl": (
        "a trace of events",
        "xperf -i FILE.etl -o pool.csv -a pool (Windows Performance Toolkit) makes the table of tags that is read",
    ),
}
"""What Windows writes without a mark of its own at the start, by its suffix."""

_SESSION_HINT = ". In the debugger type .symfix, then .reload /f nt to load the kernel's symbols, and try again"


@dataclass(frozen=True)
class Source:
    """An opened source: its snapshot, and its kernel if it has memory to search (a log has none).

    ``lacks`` says why the snapshot of a dump has no tags; empty: it has them.
    """

    snapshot: PoolSnapshot
    kernel: Optional[Kernel]
    lacks: str = ""

    @property
    def is_whole(self) -> bool:
        """Neither rows of the tag tables are missing nor pages that the file announces."""
        lost = self.kernel.target.facts.lost_pages if self.kernel else None
        return self.snapshot.coverage.is_complete and not lost

    @property
    def traffic(self) -> Optional[Traffic]:
        """What reading it over a network has cost until now; None for a source of this machine."""
        if self.kernel is None:
            return None
        from pykdext.targets.dump.base import DumpTarget

        target = self.kernel.target
        return target.traffic if isinstance(target, DumpTarget) else None


class NoTagTablesError(PykdextError):
    """The tag tables of a dump cannot be read; ``summary`` holds what the dump tells nevertheless."""

    def __init__(self, summary: DumpSummary) -> None:
        super().__init__(f"{summary.path or 'session'}: {summary.reason}")
        self.summary = summary


@contextmanager
def open_source(
    path: Optional[str],
    work: Work = UNWATCHED,
    symbol_path: Optional[str] = None,
    metadata_path: Optional[str] = None,
    *,
    needs_tags: bool = True,
) -> Iterator[Source]:
    """Recognise ``path`` by its content and read its pools; of a log with several snapshots the last one.

    Without a path it is the debugger's session, or else the live machine. ``symbol_path`` is where a dump's PDB is
    looked for; None: along the environment's ``_NT_SYMBOL_PATH``. ``metadata_path`` is the file that describes a memory
    file (VMware's .vmsn); None: it is looked for beside it. An end by the user while the tag tables are read leaves
    what was read of them. Without ``needs_tags`` a dump whose tag tables cannot be read is opened without tags, and
    ``lacks`` of the source says why.

    Raises:
        NoTagTablesError: the dump can be read, but not its tag tables, which are needed.
        PykdextError: one line that says what is wrong.
        OSError: the file cannot be opened.
    """
    if path is not None and is_stream(path):
        from pykdext.records.logs import newest_of

        yield Source(newest_of(_load_stream(path)), None)
        return
    stored = None if path is None else find_stored_source(path)
    if path is None:
        yield _open_machine(work, symbol_path, needs_tags)
    elif stored is not None:
        yield Source(_load_stored(stored)[-1], None)
    elif _is_log(path):
        from pykdext.records.logs import load_newest  # the readers of all formats, which no dump needs

        yield Source(load_newest(path), None)
    else:
        from pykdext.targets.dump.crashdump import open_crashdump

        with open_crashdump(
            path, lambda done, total: work.report(-(-done >> 20), -(-total >> 20), "MB read"), metadata_path
        ) as target:
            yield _read_target(target, hide_secrets(path), work, symbol_path, needs_tags)


def has_memory(snapshot: PoolSnapshot) -> bool:
    """Whether a state was read from a dump of this machine's disks, or the session: they can be read once more."""
    source = snapshot.source
    return source.is_session or (source.symbols is not None and os.path.exists(source.path))


def choose_symbol_path(symbol_path: Optional[str]) -> str:
    """The path as it is given, even if it is empty, or else the environment's ``_NT_SYMBOL_PATH``."""
    return os.environ.get("_NT_SYMBOL_PATH", "") if symbol_path is None else symbol_path


def load_states(
    path: Optional[str], work: Work = UNWATCHED, symbol_path: Optional[str] = None
) -> Tuple[PoolSnapshot, ...]:
    """All snapshots of a source, in its order: one of a dump, a session or a machine, any number of a log or store."""
    if path is not None and is_stream(path):
        return _load_stream(path)
    stored = None if path is None else find_stored_source(path)
    if stored is not None:
        return _load_stored(stored)
    if path is not None and _is_log(path):
        from pykdext.records.logs import load_log

        return load_log(path)
    with open_source(path, work, symbol_path) as source:
        return (source.snapshot,)


def is_stream(path: str) -> bool:
    """Whether a source can be read once only, from its start: ``-``, which is standard input, and pipes."""
    return path == STANDARD_INPUT or (not is_remote(path) and os.path.exists(path) and _is_pipe(path))


def _is_pipe(path: str) -> bool:
    mode = os.stat(path).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _load_stream(path: str) -> Tuple[PoolSnapshot, ...]:
    """All snapshots of a pipe; a dump cannot be read from one."""
    if path == STANDARD_INPUT:
        name, data = "standard input", sys.stdin.buffer.read(MAX_STREAM_BYTES + 1)
    else:
        with open(path, "rb") as stream:
            name, data = path, stream.read(MAX_STREAM_BYTES + 1)
    head = data[:HEAD_BYTES]
    if is_dump_head(head) and not is_log_head(head):
        raise TargetError(f"{name}: found a dump, expected a log or snapshot. Hint: give the dump's file, not a pipe")
    from pykdext.records.logs import load_log_stream

    return load_log_stream(name, data)


def _load_stored(stored: StoredSource) -> Tuple[PoolSnapshot, ...]:
    from pykdext.store.states import load_stored_states  # SQLite only where it is needed

    return load_stored_states(stored)


def _is_log(path: str) -> bool:
    if is_remote(path):
        return False
    if os.path.isdir(path):
        hint = "poolleak trend takes the logs of a folder, poolleak batch its dumps"
        raise TargetError(f"{path}: found a folder, expected a dump, log or snapshot. Hint: {hint}")
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    is_log = is_log_head(head)
    binary = None if is_log or is_dump_head(head) else _BINARY_LOGS.get(os.path.splitext(path)[1].lower())
    if binary is not None:
        found, hint = binary
        raise TargetError(f"{path}: found {found}, expected a dump, log or snapshot. Hint: {hint}")
    return is_log


def _open_machine(work: Work, symbol_path: Optional[str], needs_tags: bool) -> Source:
    """The debugger's session if there is one around us, else this machine."""
    if is_in_debugger():
        from pykdext.targets.session.session import open_session

        return _read_target(open_session(), "", work, symbol_path, needs_tags)
    if sys.platform != "win32":
        raise TargetError("SOURCE: found none, expected a dump, log or snapshot; only Windows has live pools")
    from pykdext.records.live import read_live_snapshot

    return Source(read_live_snapshot(), None)


def _follow_pool_code(nt: Image) -> FrozenSet[int]:
    """Which variables nt's pool routines use; the reader of code is loaded only for kernels that nobody knows."""
    from pykdext.attribution.places.cache import open_index_cache
    from pykdext.attribution.poolcode import find_pool_variables

    return find_pool_variables(nt, open_index_cache())


def _read_target(
    target: Target,
    path: str,
    work: Work,
    symbol_path: Optional[str],
    needs_tags: bool,
) -> Source:
    from pykdext.kernel.kernel import open_kernel
    from pykdext.kernel.pool.tagtables import read_pool_snapshot, state_without_tags

    kernel = open_kernel(target, choose_symbol_path(symbol_path), _follow_pool_code)
    try:
        return Source(read_pool_snapshot(kernel, path, work), kernel)
    except (TargetError, LayoutNotFoundError) as error:
        if not needs_tags:
            return Source(state_without_tags(kernel, path), kernel, f"{error}".split(" Hint: ", 1)[0])
        hint = _SESSION_HINT if not path and isinstance(error, (SymbolNotFoundError, LayoutNotFoundError)) else ""
        raise NoTagTablesError(DumpSummary(path, target.facts, target.modules(), f"{error}{hint}")) from error
