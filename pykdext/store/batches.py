"""The store: a SQLite file that keeps what batches found, host by host, so that weeks can be compared.

Everything of a dump is written in one transaction. Several batches may use one store at the same time.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

from pykdext.model import PoolKind
from pykdext.model.fleet import Answer, Driver, DumpInput, DumpRow, DumpStatus
from pykdext.printable import make_encodable
from pykdext.store.database import failures_named, open_database, transaction
from pykdext.store.verdicts import parse_verdict

_WITH_VERDICT = tuple(status.value for status in DumpStatus if status.has_report)


class Store:
    """An open store file; every method raises StoreError if the file cannot be read or written."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.path = path

    def holds(self, dump: DumpInput) -> bool:
        """Whether there is a verdict on this dump, and it has not changed since."""
        query = "SELECT 1 FROM snapshots WHERE source = ? AND identity = ? AND status IN (?, ?)"
        with failures_named(self.path):
            return self._connection.execute(query, (dump.key, dump.identity, *_WITH_VERDICT)).fetchone() is not None

    def save(self, dump: DumpInput, host: str, answer: Answer) -> None:
        """Keep what became of a dump, in place of what was known of the same content; older content is kept too."""
        with failures_named(self.path), transaction(self._connection):
            snapshot_id = self._insert_snapshot(dump, make_encodable(host), answer)
            if answer.report and answer.state:
                self._insert_tags(snapshot_id, answer.state["tags"])
                self._insert_owners(snapshot_id, answer.report["suspects"])
            self._connection.executemany(
                "INSERT INTO drivers VALUES (?, ?, ?, ?, ?)",
                (
                    (snapshot_id, position, driver["name"], driver["version"], driver["company"])
                    for position, driver in enumerate(answer.drivers)
                ),
            )

    def load_rows(self, dumps: Sequence[DumpInput]) -> Iterator[DumpRow]:
        """What became of each of ``dumps``, in their order; those not stored as they are now are left out."""
        for dump in dumps:
            with failures_named(self.path):
                row = self._connection.execute(
                    "SELECT s.id, h.name, s.status, s.error, s.report, s.fetched_bytes FROM snapshots s"
                    " JOIN hosts h ON h.id = s.host_id"
                    " WHERE s.source = ? AND s.identity IS ? ORDER BY s.id DESC LIMIT 1",
                    (dump.key, dump.identity),
                ).fetchone()
                found = self._parse_row(dump, *row) if row else None
            if found:
                yield found

    def _parse_row(
        self,
        dump: DumpInput,
        snapshot_id: int,
        host: str,
        status: str,
        error: Optional[str],
        report: Optional[str],
        fetched_bytes: Optional[int],
    ) -> DumpRow:
        verdict = parse_verdict(json.loads(report)) if report else None
        drivers = self._load_drivers(snapshot_id)
        return DumpRow(dump.path, host, DumpStatus(status), error, verdict, drivers, fetched_bytes)

    def _load_drivers(self, snapshot_id: int) -> Tuple[Driver, ...]:
        query = "SELECT name, version FROM drivers WHERE snapshot_id = ? ORDER BY position"
        return tuple(Driver(name, version) for name, version in self._connection.execute(query, (snapshot_id,)))

    def _insert_snapshot(self, dump: DumpInput, host: str, answer: Answer) -> int:
        report, state = answer.report, dict(answer.state or {})
        state.pop("tags", None)
        pools: Dict[str, Any] = report["pools"] if report else {}
        taken_at = state.get("taken_at")
        self._connection.execute(
            "DELETE FROM snapshots WHERE source = ? AND (identity IS ? OR report IS NULL OR taken_at = ?)",
            (dump.key, dump.identity, taken_at),
        )
        self._connection.execute("INSERT OR IGNORE INTO hosts (name) VALUES (?)", (host,))
        cursor = self._connection.execute(
            "INSERT INTO snapshots (host_id, source, identity, status, error, taken_at, uptime_seconds, build,"
            " nonpaged_bytes, paged_bytes, verdict, seconds, fetched_bytes, report, state)"
            " VALUES ((SELECT id FROM hosts WHERE name = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                host,
                dump.key,
                dump.identity,
                answer.status,
                make_encodable(answer.error) if answer.error else None,
                taken_at,
                state.get("uptime_seconds"),
                state["os"]["build"] if state else None,
                *(pools[pool.value]["used_bytes"] if pools else None for pool in PoolKind),
                report["verdict"] if report else None,
                answer.seconds,
                answer.fetched_bytes,
                json.dumps(report) if report else None,
                json.dumps(state) if state else None,
            ),
        )
        return int(cursor.lastrowid or 0)

    def _insert_tags(self, snapshot_id: int, tags: Sequence[Dict[str, Any]]) -> None:
        self._connection.executemany(
            "INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    snapshot_id,
                    bytes.fromhex(row["hex"]),
                    pool.value,
                    *(_in_64_bits(row[pool.value][name]) for name in ("allocs", "frees", "outstanding", "bytes")),
                    row[pool.value]["clamped"],
                )
                for row in tags
                for pool in PoolKind
            ),
        )

    def _insert_owners(self, snapshot_id: int, suspects: Sequence[Dict[str, Any]]) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?, ?)",
            (
                (snapshot_id, bytes.fromhex(suspect["hex"]), suspect["pool"], owner["module"], owner["confidence"])
                for suspect in suspects
                for owner in suspect["owners"]
            ),
        )


def _in_64_bits(number: Optional[int]) -> Optional[int]:
    """A counter as SQLite can hold it; a larger one comes from a damaged table, and says nothing."""
    return number if number is not None and number < 1 << 63 else None


@contextmanager
def open_store(path: str) -> Iterator[Store]:
    """Open a store to read and write; a file that is missing becomes one. StoreError if it is none."""
    connection = open_database(path, create=True)
    try:
        yield Store(connection, path)
    finally:
        connection.close()
