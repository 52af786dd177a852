"""The store: what is kept of a dump, stored snapshots as sources, history, and files that are no store."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.fleet.worker import analyze_dump
from pykdext.model import PoolTag
from pykdext.model.fleet import Answer, DumpInput, DumpStatus, Task
from pykdext.pipeline import load_states
from pykdext.store.batches import open_store
from pykdext.store.database import VERSION, StoreError, open_database
from pykdext.store.source import find_stored_source
from pykdext.store.states import load_history, load_stored_states
from pykdext.store.verdicts import parse_verdict
from tests.conftest import PROJECT
from tests.helpers.fleetdumps import set_time

WEEKS = 9
BEGIN = datetime(2024, 9, 1, 3, 0, tzinfo=timezone.utc)
PIPO = PoolTag(b"Pipo")


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """The answer of a real dump, and the dump."""
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo").save(path)
    set_time(path, BEGIN)
    return analyze_dump(Task(str(path), 60.0)), path


def grown(answer, week):
    """The same machine some weeks later: its leak has grown, and it was never restarted."""
    copy = json.loads(json.dumps(answer._asdict()))
    state = copy["state"]
    state["taken_at"] = (BEGIN + timedelta(weeks=week)).isoformat()
    state["uptime_seconds"] += 7 * 86400 * week
    row = next(row for row in state["tags"] if row["tag"] == "Pipo")
    for name, step in (("allocs", 100_000), ("outstanding", 100_000), ("bytes", 100_000 * 0x1B0)):
        row["nonpaged"][name] += week * step
    return Answer(**copy)


def dump_of(host, week=0, identity=None):
    return DumpInput(f"{host}-{week}", f"/dumps/{host}-{week}.dmp", identity or f"{week}")


@pytest.fixture
def weeks(tmp_path, answer):
    """A store of two hosts over nine weeks."""
    path = str(tmp_path / "weeks.sqlite")
    with open_store(path) as store:
        for week in reversed(range(WEEKS)):
            for host in ("SRV01", "srv02"):
                store.save(dump_of(host, week), host, grown(answer[0], week if host == "SRV01" else 0))
    return path


def query(path, text):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def test_batches_that_make_one_store_at_once_wait_for_each_other(tmp_path):
    path = tmp_path / "new.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.5, other.execute, ["COMMIT"]).start()
    open_database(str(path), create=True).close()
    assert other.execute("PRAGMA user_version").fetchone() == (VERSION,)
    other.close()


def test_a_stored_snapshot_equals_its_dump(tmp_path, answer):
    path = str(tmp_path / "weeks.sqlite")
    dump = DumpInput("MEMORY.DMP", str(answer[1]), "1")
    with open_store(path) as store:
        store.save(dump, "SRV01", answer[0])
    (stored,) = load_stored_states(find_stored_source(path))
    (read,) = load_states(str(answer[1]))
    assert stored.host == "SRV01"
    by_tag = {row.tag: row for row in read.tags}
    assert {row.tag: row for row in stored.tags} == by_tag
    for name in ("source", "taken_at", "build", "machine", "processors", "uptime_seconds", "memory", "coverage"):
        assert getattr(stored, name) == getattr(read, name)


def test_rows_come_back_as_they_were_saved(tmp_path, answer):
    dumps = [dump_of("b"), dump_of("a"), dump_of("missing")]
    with open_store(str(tmp_path / "x.sqlite")) as store:
        store.save(dumps[1], "a", Answer(DumpStatus.UNUSABLE.value, 0.1, error="damaged"))
        store.save(dumps[0], "b", answer[0])
        good, bad = store.load_rows(dumps)
    assert (good.path, good.host, good.status, good.verdict.document) == ("b-0", "b", DumpStatus.DONE, answer[0].report)
    assert (bad.path, bad.host, bad.status, bad.error) == ("a-0", "a", DumpStatus.UNUSABLE, "damaged")
    assert ("pippo.sys", "1.4.2.0") in [(driver.name, driver.version) for driver in good.drivers]
    assert query(tmp_path / "x.sqlite", "SELECT module, confidence FROM owners")[0] == ("pippo.sys", "proven")


def test_new_content_is_kept_beside_the_old_and_the_same_replaces_it(tmp_path, answer):
    path = tmp_path / "x.sqlite"
    first, second = (DumpInput("MEMORY.DMP", "/MEMORY.DMP", identity) for identity in "12")
    with open_store(str(path)) as store:
        store.save(first, "a", Answer(DumpStatus.TIMED_OUT.value, 9.0, error="no answer"))
        assert not store.holds(first)
        store.save(first, "a", answer[0])
        assert store.holds(first) and not store.holds(second)
        store.save(first, "a", answer[0])
        store.save(second, "a", grown(answer[0], 1))
        assert [row.status for row in store.load_rows([second])] == [DumpStatus.DONE]
    assert query(path, "SELECT identity, status FROM snapshots ORDER BY identity") == [("1", "done"), ("2", "done")]
    orphans = "SELECT count(*) FROM {} WHERE snapshot_id NOT IN (SELECT id FROM snapshots)"
    assert all(query(path, orphans.format(table)) == [(0,)] for table in ("tags", "owners", "drivers"))


def test_a_save_that_fails_leaves_nothing(tmp_path, answer):
    path = tmp_path / "x.sqlite"
    broken = answer[0]._replace(drivers=[{"name": "x.sys", "version": object(), "company": None}])
    with open_store(str(path)) as store, pytest.raises(StoreError):
        store.save(dump_of("a"), "a", broken)
    assert [query(path, f"SELECT count(*) FROM {table}") for table in ("snapshots", "tags", "hosts")] == [[(0,)]] * 3


def test_counters_beyond_63_bits_are_not_known(tmp_path, answer):
    damaged = grown(answer[0], 0)
    damaged.state["tags"][0]["paged"]["bytes"] = 1 << 63
    path = str(tmp_path / "x.sqlite")
    with open_store(path) as store:
        store.save(dump_of("a"), "a", damaged)
    (state,) = load_stored_states(find_stored_source(path))
    tag = PoolTag(bytes.fromhex(damaged.state["tags"][0]["hex"]))
    assert next(row for row in state.tags if row.tag == tag).paged.bytes is None


def test_diff_and_trend_take_stored_snapshots(weeks, capsys):
    assert main(["diff", f"{weeks}::SRV01", f"{weeks}::srv01", "--format", "json"]) == 0
    (delta,) = json.loads(capsys.readouterr().out)["deltas"]
    assert (delta["tag"], delta["bytes"]) == ("Pipo", (WEEKS - 1) * 100_000 * 0x1B0)
    later = (BEGIN + timedelta(weeks=1)).date()
    assert main(["diff", f"{weeks}::SRV01@{BEGIN:%Y-%m-%d}", f"{weeks}::SRV01@{later}", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["deltas"][0]["bytes"] == 100_000 * 0x1B0
    assert main(["trend", f"{weeks}::SRV01", "--format", "json"]) == 0
    trend = json.loads(capsys.readouterr().out)["trends"][0]
    assert (trend["tag"], trend["verdict"]) == ("Pipo", "leak")
    assert main(["used", f"{weeks}::SRV02", "--tag", "Pipo"]) == 0
    assert "Pipo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("", "found 2 hosts, expected one host. Hint: name one behind ::: SRV01, srv02"),
        ("::SRV09", "found no host SRV09"),
        ("::SRV01@2031", "host SRV01: found no snapshot at 2031"),
    ],
)
def test_a_source_that_names_no_host_is_one_line(weeks, capsys, selection, words):
    assert main(["diff", f"{weeks}{selection}", f"{weeks}::SRV01"]) == 3
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_history_shows_the_weeks(weeks, capsys):
    assert main(["history", "Pipo", "--store", weeks, "--width", "120"]) == 0
    head, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["Host", "Tag", "Type", "Dumps"] and head.endswith("Bytes")
    assert first.split()[:6] == ["SRV01", "Pipo", "Nonp", "9", "2024-09-01", "2024-10-27"]
    assert first.split()[-1] == ".:-=+*#%@"
    assert second.split()[0] == "srv02"
    (line,) = load_history(weeks, "SRV0?")[:1]
    assert (line.host, line.tag, len(line.samples)) == ("SRV01", PIPO, WEEKS)
    assert {line.host for line in load_history(weeks, "srv02")} == {"srv02"}
    assert {line.tag.text for line in load_history(weeks, "Pi*")} == {"Pipo"}
    assert {line.host for line in load_history(weeks)} == {"SRV01", "srv02"}


def test_history_guesses_a_tag_in_other_case(weeks, capsys):
    assert main(["history", "pIPO", "--store", weeks]) == 3
    assert "found neither a host nor a tag pIPO, did you mean Pipo; hosts: " in capsys.readouterr().err
    assert main(["history", "Zzzz", "--store", weeks]) == 3
    assert "did you mean" not in capsys.readouterr().err


def test_history_is_exported(weeks, capsys, tmp_path):
    assert main(["history", "Pipo", "--store", weeks, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * WEEKS
    assert (rows[0]["host"], rows[0]["tag"], rows[0]["hex"]) == ("SRV01", "Pipo", "5069706f")
    assert int(rows[1]["bytes"]) - int(rows[0]["bytes"]) == 100_000 * 0x1B0
    out = tmp_path / "history.json"
    assert main(["history", "Pipo", "--store", weeks, "--format", "json", "-o", str(out)]) == 0
    document = json.loads(out.read_text())
    assert (document["schema"], document["subject"]) == ("poolleak.history/1", "Pipo")
    assert [len(line["samples"]) for line in document["lines"]] == [WEEKS, WEEKS]
    assert document["lines"][0]["samples"][0]["taken_at"] == BEGIN.isoformat()


def test_foreign_names_are_no_formulas_in_a_spreadsheet(tmp_path, answer, capsys):
    path = str(tmp_path / "x.sqlite")
    with open_store(path) as store:
        store.save(dump_of("=cmd|'/c calc'!A1"), "=cmd|'/c calc'!A1", answer[0])
    assert main(["history", "Pipo", "--store", path, "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["host"] == "'=cmd|'/c calc'!A1"


def newer(path):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()


def foreign(path):
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE contacts (name TEXT)")
    connection.commit()
    connection.close()


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def no_database(path):
    path.write_bytes(b"SQLite format 3\0" + b"\x55" * 5000)


def missing(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (newer, f"found a store of version {VERSION + 1}, expected {VERSION} or older"),
        (foreign, "found a database of another program, expected a poolleak store"),
        (cut, "malformed"),
        (no_database, "not a database"),
        (missing, "unable to open"),
    ],
)
def test_a_file_that_is_no_store_is_one_line_and_not_changed(tmp_path, answer, capsys, damage, words):
    path = tmp_path / "x.sqlite"
    with open_store(str(path)) as store:
        store.save(dump_of("a"), "a", answer[0])
    damage(path)
    before = path.read_bytes() if path.exists() else None
    assert main(["history", "--store", str(path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"poolleak: {path}: ") and words in error and error.count("\n") == 1
    assert (path.read_bytes() if path.exists() else None) == before
    if damage in (newer, foreign, no_database):
        with pytest.raises(StoreError, match=r"found|database"), open_store(str(path)):
            pass
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE snapshots SET state = '{'", ["used", "{store}::SRV01"]),
        ("UPDATE snapshots SET state = '[]'", ["used", "{store}::SRV01"]),
        ("UPDATE snapshots SET taken_at = 'yesterday'", ["history", "--store", "{store}"]),
        (
            "UPDATE tags SET pool = 'swimming' WHERE pool = 'paged'; UPDATE tags SET bytes = 1",
            ["history", "--store", "{store}"],
        ),
        ("DELETE FROM tags WHERE tag <> x'5069706f'; UPDATE tags SET tag = x'50'", ["history", "--store", "{store}"]),
    ],
)
def test_damaged_contents_are_one_line(weeks, capsys, change, words):
    connection = sqlite3.connect(weeks)
    connection.executescript(change)
    connection.close()
    assert main([word.format(store=weeks) for word in words]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "expected" in captured.err


@pytest.mark.parametrize("report", ["{", "[" * 100_000, "[]", "{}", '{"schema": "poolleak.report/9"}'])
def test_a_damaged_report_is_no_traceback(tmp_path, answer, report):
    path = str(tmp_path / "s.sqlite")
    with open_store(path) as store:
        store.save(dump_of("SRV01"), "SRV01", answer[0])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE snapshots SET report = ?", (report,))
    connection.commit()
    connection.close()
    with open_store(path) as store, pytest.raises(StoreError, match="found damaged contents"):
        list(store.load_rows([dump_of("SRV01")]))


@pytest.mark.parametrize("count", ["many", None, -1, 1 << 64, 0.5])
def test_a_damaged_count_of_a_group_is_a_damaged_report(answer, count):
    report = json.loads(json.dumps(answer[0].report))
    parse_verdict(report)
    member = {"hex": "50697070", "pool": "paged", "role": "cause", "blocks": count}
    report["groups"] = [{"members": [member, member]}]
    with pytest.raises(ValueError, match="the count"):
        parse_verdict(report)


def test_a_store_whose_making_was_killed_is_made_by_the_next_batch(tmp_path, answer, capsys):
    path = tmp_path / "x.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size
    assert main(["history", "--store", str(path)]) == 3
    assert "found a database without contents" in capsys.readouterr().err
    with open_store(str(path)) as store:
        store.save(dump_of("a"), "a", answer[0])
    assert len(load_stored_states(find_stored_source(str(path)))) == 1


_WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_a_store_of_somebody_else_is_read(weeks, tmp_path):
    """Neither the file nor its folder may be written: history is told, and a batch says why it cannot keep anything."""
    rights = _WITHOUT_ROOTS_RIGHTS if os.geteuid() == 0 else ()
    if rights and shutil.which(rights[0]) is None:
        pytest.skip("root may write anything, and nothing gives up that right here")
    os.chmod(weeks, 0o444)
    tmp_path.chmod(0o555)
    command = (*rights, sys.executable, "-B", "-m", "pykdext")
    try:
        told = subprocess.run((*command, "history", "--store", weeks), cwd=PROJECT, capture_output=True, text=True)
        kept = subprocess.run(
            (*command, "batch", "pyproject.toml", "--store", weeks), cwd=PROJECT, capture_output=True, text=True
        )
    finally:
        tmp_path.chmod(0o755)
    assert told.returncode == 0 and "SRV01" in told.stdout
    assert kept.returncode == 3 and "is read-only" in kept.stderr and kept.stderr.count("\n") == 1
