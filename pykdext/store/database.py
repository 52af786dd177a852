"""The tables of a store file, and how a file is opened that holds them."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from pykdext.errors import PykdextError

VERSION = 1

_APPLICATION_ID = 0x506F6F6C  # "Pool"
_BUSY_SECONDS = 60.0
"""Two batches may write into one store: each waits for the other's transaction."""

_RETRY_SECONDS = 0.02

_UNCHANGED = "mode=ro&immutable=1"
"""How SQLite reads a store of others without files of its own beside it."""

_TABLES = """
CREATE TABLE hosts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE
);
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY,
    host_id INTEGER NOT NULL REFERENCES hosts (id),
    source TEXT NOT NULL,        -- the dump: an absolute path, or a URL
    identity TEXT,               -- changes with the content of the dump
    status TEXT NOT NULL,
    error TEXT,
    taken_at TEXT,               -- ISO 8601, UTC
    uptime_seconds REAL,
    build INTEGER,
    nonpaged_bytes INTEGER,
    paged_bytes INTEGER,
    verdict TEXT,
    seconds REAL NOT NULL,
    fetched_bytes INTEGER,
    report TEXT,                 -- poolleak.report/1
    state TEXT                   -- poolleak.snapshot/1 without its tags
);
CREATE INDEX snapshots_of_source ON snapshots (source);
CREATE INDEX snapshots_of_host ON snapshots (host_id, taken_at);
CREATE TABLE tags (
    snapshot_id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    tag BLOB NOT NULL,           -- the four bytes in memory order
    pool TEXT NOT NULL,
    allocs INTEGER,
    frees INTEGER,
    outstanding INTEGER,
    bytes INTEGER,
    clamped INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, tag, pool)
) WITHOUT ROWID;
CREATE INDEX snapshots_of_tag ON tags (tag);
CREATE TABLE owners (
    snapshot_id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    tag BLOB NOT NULL,
    pool TEXT NOT NULL,
    module TEXT NOT NULL COLLATE NOCASE,
    confidence TEXT NOT NULL,
    PRIMARY KEY (snapshot_id, tag, pool, module)
) WITHOUT ROWID;
CREATE TABLE drivers (
    snapshot_id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,   -- in the order in which they were loaded
    name TEXT NOT NULL COLLATE NOCASE,
    version TEXT,
    company TEXT,
    PRIMARY KEY (snapshot_id, position)
) WITHOUT ROWID;
CREATE INDEX snapshots_of_driver ON drivers (name, version);
"""


class StoreError(PykdextError):
    """A store file that cannot be read or written, is none, or is of a newer version."""


def open_database(path: str, *, create: bool) -> sqlite3.Connection:
    """Open a store file; with ``create`` a file that is missing or empty becomes one.

    Raises:
        StoreError: it is no store, of a newer version, or cannot be opened.
    """
    with failures_named(path):
        if create:
            return _open_prepared(path, "mode=rwc", create=True)
        try:
            return _open_prepared(path, "mode=rw", create=False)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error) or _has_open_log(path):
                raise
        return _open_prepared(path, _UNCHANGED, create=False)


def _open_prepared(path: str, how: str, *, create: bool) -> sqlite3.Connection:
    uri = f"{Path(path).absolute().as_uri()}?{how}"
    connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
    try:
        _prepare(connection, path, create=create)
    except BaseException:
        connection.close()
        raise
    return connection


def _has_open_log(path: str) -> bool:
    """Whether what a batch wrote last stands beside the file only."""
    log = Path(f"{path}-wal")
    return log.exists() and log.stat().st_size > 0


@contextmanager
def failures_named(path: str) -> Iterator[None]:
    """Say what SQLite complains of, and contents that cannot be, as a StoreError that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: store: {error}{_hint(str(error))}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: store: found damaged contents ({error}), expected what a batch wrote") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _prepare(connection: sqlite3.Connection, path: str, *, create: bool) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    if create and _is_empty(connection):
        _use_write_ahead_log(connection)
        with transaction(connection):
            if _is_empty(connection):  # no other batch was faster
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
    elif _is_empty(connection) and _pragma(connection, "application_id") == 0:
        hint = "the batch that was to make it was ended before; run it again"
        raise StoreError(f"{path}: found a database without contents, expected a poolleak store. Hint: {hint}")
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise StoreError(f"{path}: found a database of another program, expected a poolleak store")
    version = _pragma(connection, "user_version")
    if version > VERSION:
        hint = "this store was written by a newer poolleak: upgrade this one"
        raise StoreError(f"{path}: found a store of version {version}, expected {VERSION} or older. Hint: {hint}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Wait for another process that does the same: SQLite itself gives up at once here, whatever its timeout."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _hint(message: str) -> str:
    if "full" in message or "disk I/O" in message:
        return ". Hint: the disk may be full; what was stored before is kept, run the same command again"
    if "readonly" in message:
        return ". Hint: the file or its folder is read-only; to read it while a batch writes it, copy it"
    if "locked" in message:
        return ". Hint: another batch writes into it"
    if "unable to open" in message:
        return ". Hint: poolleak batch DUMPS --store FILE makes one, in a folder that is there"
    if "not a database" in message:
        return ". Hint: a store is a file that poolleak batch DUMPS --store FILE has made"
    return ""
