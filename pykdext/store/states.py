"""Stored snapshots as a source, and the history of hosts and tags: what is read from a store file."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from pykdext.model import UNSAID, PoolKind, PoolSnapshot, PoolTag, PoolUsage
from pykdext.model.fleet import HistoryLine, HistorySample
from pykdext.model.selection import match_tag, match_text
from pykdext.records.snapshotfile import parse_coverage, parse_snapshot_document
from pykdext.store.database import StoreError, failures_named, open_database
from pykdext.store.source import SEPARATOR, StoredSource
from pykdext.units import count_things, name_some

_NAMED_HOSTS = 12


def load_stored_states(source: StoredSource) -> Tuple[PoolSnapshot, ...]:
    """The stored snapshots of one host, in the order of time.

    Raises:
        StoreError: the store cannot be read; it has several hosts and none is named; nothing is stored of this one.
    """
    with _open_connection(source.file) as connection:
        host = _choose_host(connection, source)
        rows = connection.execute(
            "SELECT s.id, s.source, s.state FROM snapshots s JOIN hosts h ON h.id = s.host_id"
            " WHERE h.name = ? AND s.state IS NOT NULL AND coalesce(s.taken_at, '') LIKE ? || '%'"
            " ORDER BY s.taken_at, s.id",
            (host, source.moment or ""),
        ).fetchall()
        states = tuple(
            parse_snapshot_document(
                {**json.loads(state), "host": host, "tags": _load_tags(connection, snapshot_id)}, dump
            )
            for snapshot_id, dump, state in rows
        )
    if not states:
        when = f" at {source.moment}" if source.moment else ""
        raise StoreError(f"{source.file}: host {host}: found no snapshot{when}, expected one")
    return states


def load_history(file: str, subject: Optional[str] = None) -> Tuple[HistoryLine, ...]:
    """Every tag and pool over all snapshots of a store: of one host, of one tag, or of all; the largest at last first.

    ``subject`` is the name of a host, or a tag, or a pattern of either with ``*`` and ``?``; a host goes before.

    Raises:
        StoreError: the store cannot be read, or neither a host nor a tag is called so.
    """
    with _open_connection(file) as connection:
        hosts = _load_hosts(connection)
        chosen = [host for host in hosts if subject is None or match_text(subject.lower(), host.lower())]
        lines = _load_lines(connection, chosen or hosts, None if chosen else subject)
        guess = "" if lines or subject is None else _guess_tag(connection, subject)
    if not lines and subject is not None:
        raise StoreError(f"{file}: found neither a host nor a tag {subject}{guess}; hosts: {_name_hosts(hosts)}")
    return tuple(sorted(lines, key=_rank))


def _guess_tag(connection: sqlite3.Connection, subject: str) -> str:
    """The tag that is so called in other case, as a question; empty if there is none."""
    known = (PoolTag(raw) for (raw,) in connection.execute("SELECT DISTINCT tag FROM tags"))
    alike = (tag.text.strip() for tag in known if tag.text.strip().lower() == subject.strip().lower())
    return next((f", did you mean {tag}" for tag in alike), "")


def _load_lines(connection: sqlite3.Connection, hosts: List[str], tag: Optional[str]) -> List[HistoryLine]:
    """The lines of these hosts; with ``tag`` only those of the tags that it matches."""
    lines: List[HistoryLine] = []
    for host in hosts:
        samples: Dict[Tuple[bytes, str], List[HistorySample]] = {}
        uncounted = _find_uncounted(connection, host)
        rows = connection.execute(
            "SELECT s.id, t.tag, t.pool, s.taken_at, s.uptime_seconds, t.allocs, t.frees, t.outstanding, t.bytes,"
            " t.clamped FROM tags t JOIN snapshots s ON s.id = t.snapshot_id JOIN hosts h ON h.id = s.host_id"
            " WHERE h.name = ? AND (t.allocs OR t.bytes) ORDER BY s.taken_at, s.id",
            (host,),
        )
        for snapshot_id, raw, pool, taken_at, uptime_seconds, allocs, frees, outstanding, held, clamped in rows:
            if not all(number is None or isinstance(number, int) for number in (allocs, frees, outstanding, held)):
                raise TypeError("a counter that is no number")
            if tag is None or _is_tag(PoolTag(raw), tag):
                is_counted = snapshot_id not in uncounted
                usage = PoolUsage(allocs, frees, outstanding, held, bool(clamped)) if is_counted else UNSAID
                moment = datetime.fromisoformat(taken_at) if taken_at else None
                samples.setdefault((raw, pool), []).append(HistorySample(moment, uptime_seconds, usage, is_counted))
        lines += [
            HistoryLine(host, PoolTag(raw), PoolKind(pool), tuple(found)) for (raw, pool), found in samples.items()
        ]
    return lines


def _find_uncounted(connection: sqlite3.Connection, host: str) -> Set[int]:
    """The snapshots of a host that lack processors' tables, so that what their tags hold is not known."""
    rows = connection.execute(
        "SELECT s.id, s.state FROM snapshots s JOIN hosts h ON h.id = s.host_id"
        " WHERE h.name = ? AND s.state IS NOT NULL",
        (host,),
    )
    return {number for number, state in rows if parse_coverage(json.loads(state)["coverage"]).lacks_counts}


@contextmanager
def _open_connection(file: str) -> Iterator[sqlite3.Connection]:
    connection = open_database(file, create=False)
    try:
        with failures_named(file):
            yield connection
    finally:
        connection.close()


def _choose_host(connection: sqlite3.Connection, source: StoredSource) -> str:
    hosts = _load_hosts(connection)
    wanted = [host for host in hosts if source.host is None or host.lower() == source.host.lower()]
    if len(wanted) == 1:
        return wanted[0]
    found = f"no host {source.host}" if source.host else count_things(len(hosts), "host")
    hint = f"name one behind {SEPARATOR}: {_name_hosts(hosts)}"
    raise StoreError(f"{source.file}: found {found}, expected one host. Hint: {hint}")


def _load_hosts(connection: sqlite3.Connection) -> List[str]:
    """The hosts with a snapshot."""
    query = (
        "SELECT DISTINCT h.name FROM hosts h JOIN snapshots s ON s.host_id = h.id WHERE s.state IS NOT NULL ORDER BY 1"
    )
    return [name for (name,) in connection.execute(query)]


def _load_tags(connection: sqlite3.Connection, snapshot_id: int) -> List[Dict[str, Any]]:
    """The tags of a snapshot in the form of ``poolleak.snapshot/1``."""
    tags: Dict[bytes, Dict[str, Any]] = {}
    rows = connection.execute(
        "SELECT tag, pool, allocs, frees, outstanding, bytes, clamped FROM tags WHERE snapshot_id = ?", (snapshot_id,)
    )
    for raw, pool, *counters, clamped in rows:
        usage = dict(zip(("allocs", "frees", "outstanding", "bytes"), counters))
        tags.setdefault(raw, {"hex": raw.hex()})[pool] = {**usage, "clamped": bool(clamped)}
    return list(tags.values())


def _is_tag(tag: PoolTag, pattern: str) -> bool:
    return match_tag(pattern, tag)


def _name_hosts(hosts: List[str]) -> str:
    return name_some(hosts, _NAMED_HOSTS) or "none"


def _rank(line: HistoryLine) -> Tuple[int, str, str, str]:
    return -(line.ends[1].usage.bytes or 0), line.host.lower(), line.tag.hex, line.pool.value
