"""Batches as a user runs them: in processes, on a Dask cluster, with dumps, workers and disks that fail."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.fleet.batch import AHEAD, run_batch
from pykdext.fleet.inputs import find_inputs
from pykdext.fleet.request import BatchRequest, open_batch
from pykdext.fleet.workers import open_local_workers
from pykdext.model.fleet import Task
from pykdext.store.batches import open_store
from tests.conftest import PROJECT
from tests.helpers.fleetdumps import LEAKING, set_time, write_fleet
from tests.helpers.rangeserver import RangeServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses FIFOs, signals and limits of POSIX")

TIMEOUT = "15s"
SOME = 10
"""So many dumps are enough where it is not their number that matters."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """What is kept of images from one dump to the next, as for every user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POOLLEAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    return folder, write_fleet(folder)


@pytest.fixture(scope="module")
def kept_batch(fleet, tmp_path_factory):
    """The document of a batch over the whole fleet, undisturbed, and the store that it left."""
    folder = tmp_path_factory.mktemp("batch")
    path, store = folder / "batch.json", folder / "batch.sqlite"
    assert main(words(fleet, "-o", path, "--store", store)) == 1
    return comparable(path), store


@pytest.fixture(scope="module")
def by_processes(kept_batch):
    return kept_batch[0]


def words(fleet, *more, count=None):
    """A batch over the last ``count`` dumps, those that fail among them."""
    paths = fleet[1][-count:] if count else fleet[1]
    return ["batch", *map(str, paths), "--timeout", TIMEOUT, "--format", "json", *map(str, more)]


def comparable(path):
    document = json.loads(path.read_text())
    assert set(document.pop("run")) == {"seconds", "reused", "fetched_bytes"}
    return document


def start(*arguments, **options):
    """The command line in a process of its own, to which Ctrl-C means what it does on a terminal.

    A shell's background jobs hand on that it is ignored.
    """
    command = [sys.executable, "-m", "pykdext", *map(str, arguments)]
    options = {
        "stderr": subprocess.PIPE,
        "preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        **options,
    }
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, **options)


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


def find_reader(pid, folder, passed_over):
    """A child process and the dump that it has open, unless that is one of some."""
    for child in children_of(pid):
        with suppress(OSError):
            for number in os.listdir(f"/proc/{child}/fd"):
                path = os.readlink(f"/proc/{child}/fd/{number}")
                if path.startswith(f"{folder}/") and path not in passed_over:
                    return child, path
    return None


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)
    return value


def stored_count(path):
    if not path.exists():
        return 0
    import sqlite3

    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute("SELECT count(*) FROM snapshots WHERE report IS NOT NULL").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_every_dump_has_a_row_and_a_reason(fleet, by_processes):
    rows = by_processes["dumps"]
    assert [row["path"] for row in rows] == [str(path) for path in fleet[1]]
    assert Counter(row["status"] for row in rows) == {"done": 25, "unusable": 2, "timed-out": 1}
    assert by_processes["counts"]["dumps"] == 28 and by_processes["counts"]["hosts"] == 12
    damaged, truncated, hanging = rows[-3:]
    assert "found signature" in damaged["error"] and damaged["report"] is None
    assert "the copy is cut short" in truncated["error"]
    assert hanging["error"].endswith("no answer within 15 s")
    for row in rows[:-3]:
        assert row["error"] is None and row["report"]["schema"] == "poolleak.report/1"
        assert row["host"] == os.path.basename(os.path.dirname(row["path"]))


def test_the_common_denominator_is_the_truth(by_processes):
    first, second = by_processes["common"]
    assert (first["tag"], first["module"], first["version"]) == ("Pipo", "pippo.sys", "1.4.2.0")
    assert (first["hosts"], first["dumps"]) == (list(LEAKING), 14)
    assert first["bytes"] == 7 * 4_812_345 * 0x1B0
    assert first["quiet_hosts"] == ["WEB08"]
    assert first["other_versions"] == [{"version": "1.5.0.0", "hosts": ["WEB09"], "leaking_hosts": []}]
    assert (second["tag"], second["module"], second["hosts"]) == ("Pgla", "pagella.sys", ["DB01"])


def test_the_text_says_it_in_one_screen(fleet, capsys):
    folder = fleet[0]
    hosts = [str(folder / host) for host in ("WEB0[1289]", "DB01")]
    status = main(["batch", *hosts, "--jobs", "2", "--width", "100"])
    out = capsys.readouterr().out
    assert status == 0
    assert "11 dumps (11 done) of 5 hosts" in out
    text = " ".join(out.split())
    assert "Tag Pipo of the nonpaged pool, used by pippo.sys 1.4.2.0, looks like a leak on 2 of 5 hosts." in text
    assert "same driver, no leak: WEB08" in text
    assert "version 1.5.0.0: no leak on WEB09" in text
    assert all(len(line) <= 100 for line in out.splitlines())
    assert re.search(r"11 dumps read in \d+ s, \d+ a minute", text)


def test_a_killed_process_loses_nothing(fleet, by_processes, tmp_path):
    path = tmp_path / "batch.json"
    batch = start(*words(fleet, "-o", path, "--jobs", 2, count=SOME))
    killed = set()
    for _ in range(3):
        victim, dump = wait_until(lambda: find_reader(batch.pid, fleet[0], killed))
        killed.add(dump)
        os.kill(victim, signal.SIGKILL)
    output, errors = batch.communicate(timeout=120)
    assert (batch.returncode, output, errors) == (1, "", "")
    assert comparable(path)["dumps"] == by_processes["dumps"][-SOME:]


def test_a_dump_that_kills_its_process_twice_is_a_row(tmp_path):
    hanging = tmp_path / "evil.dmp"
    os.mkfifo(hanging)
    good = tmp_path / "good.dmp"
    forge("pipo").save(good)
    out = tmp_path / "batch.json"
    batch = start("batch", hanging, good, "--jobs", 1, "--timeout", "60s", "--format", "json", "-o", out)
    for _ in range(2):
        victim = wait_until(lambda: children_of(batch.pid))[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: victim not in children_of(batch.pid))
    batch.communicate(timeout=120)
    evil, fine = json.loads(out.read_text())["dumps"]
    assert (evil["status"], fine["status"]) == ("crashed", "done")
    assert evil["error"].endswith("the process that reads it ended 2 times: SIGKILL")


@pytest.mark.skipif(sys.platform == "win32", reason="there the limit of time ends them")
def test_nobody_survives_a_batch_that_is_killed(tmp_path):
    os.mkfifo(tmp_path / "hanging.dmp")
    batch = start("batch", tmp_path / "hanging.dmp", "--jobs", 1, "--timeout", "1h")
    child = wait_until(lambda: children_of(batch.pid))[0]
    time.sleep(0.2)
    batch.kill()
    batch.communicate()
    wait_until(lambda: not is_running(child))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_batch_that_is_asked_to_end_leaves_nothing(tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    os.mkfifo(tmp_path / "hanging.dmp")
    forge("pipo").save(tmp_path / "good.dmp")
    out = tmp_path / "batch.json"
    batch = start(
        *("batch", tmp_path / "good.dmp", tmp_path / "hanging.dmp", "--jobs", 1, "--format", "json", "-o", out),
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    wait_until(lambda: any(stored_count(path) for path in temporary.glob("*/batch.sqlite")))
    children = wait_until(lambda: children_of(batch.pid))
    batch.terminate()
    _, errors = batch.communicate(timeout=60)
    assert batch.returncode == 128 + signal.SIGTERM and "Traceback" not in errors
    assert os.listdir(temporary) == []
    assert not any(map(is_running, children))
    assert [row["status"] for row in json.loads(out.read_text())["dumps"]] == ["done"]


def is_running(pid):
    """A process that has ended is none, even if nobody has asked how."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupted_batch_keeps_what_is_done(fleet, by_processes, tmp_path):
    store, out = tmp_path / "weeks.sqlite", tmp_path / "batch.json"
    hanging = fleet[1][-1]
    batch = start("batch", hanging, *fleet[1][-SOME:-3], "--jobs", 2, "--store", store)
    wait_until(lambda: stored_count(store) >= 3)
    batch.send_signal(signal.SIGINT)
    output, errors = batch.communicate(timeout=120)
    assert batch.returncode == 130 and errors == "poolleak: interrupted\n"
    kept = stored_count(store)
    assert 3 <= kept < SOME - 3
    assert "not finished" in output and " ok " in output
    assert main(words(fleet, "--store", store, "-o", out, count=SOME)) == 1
    document = json.loads(out.read_text())
    assert document["run"]["reused"] == kept
    assert document["dumps"] == by_processes["dumps"][-SOME:]


def test_a_second_run_reads_only_what_is_new_or_changed(tmp_path, capsys):
    folder, store = tmp_path / "dumps", tmp_path / "weeks.sqlite"
    folder.mkdir()
    for number in range(3):
        forge("pipo", seed=number).save(folder / f"SRV0{number}.dmp")
    (folder / "notes.txt").write_text("no dump\n" * 100)
    run = ["batch", str(folder), "--store", str(store), "--format", "json"]
    assert main(run) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["host"] for row in first["dumps"]] == ["SRV00", "SRV01", "SRV02"]
    assert main(run) == 0
    second = json.loads(capsys.readouterr().out)
    assert (first.pop("run")["reused"], second.pop("run")["reused"]) == (0, 3)
    assert second == first
    set_time(folder / "SRV01.dmp", datetime(2024, 12, 1, tzinfo=timezone.utc))
    os.utime(folder / "SRV01.dmp", ns=(1, 1))
    assert main(run) == 0
    third = json.loads(capsys.readouterr().out)
    assert third["run"]["reused"] == 2
    assert third["dumps"][1]["report"]["subject"]["taken_at"].startswith("2024-12-01")
    assert main([*run, "--again"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["reused"] == 0


def test_names_that_are_no_text_are_kept(tmp_path, capsysbinary):
    folder, store, out = os.fsencode(tmp_path / "SRV") + b"\xff", tmp_path / "x.sqlite", tmp_path / "out"
    os.mkdir(folder)
    for name in (b"MEMORY.DMP", b"\xfe.dmp"):
        forge("pipo").save(os.fsdecode(folder + b"/" + name))
    os.truncate(folder + b"/\xfe.dmp", 100)
    run = ["batch", os.fsdecode(folder), "--store", str(store), "-o", str(out), "--format"]
    for form in ("text", "csv", "json"):
        assert main([*run, form]) == 1
        assert b"SRV\\udcff" in out.read_bytes()
    assert json.loads(out.read_text())["run"]["reused"] == 1
    assert main(["history", "SRV*", "--store", str(store), "--top", "1"]) == 0
    assert b"SRV\\udcff" in capsysbinary.readouterr().out


def test_progress_tells_rate_and_time_left(fleet):
    import pty

    ours, theirs = pty.openpty()
    batch = start("batch", *fleet[1][:5], "--jobs", 1, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        shown += piece
    batch.communicate(timeout=120)
    os.close(ours)
    text = re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", shown).decode()
    assert re.search(r"dumps, \d+ a minute \S+ +\d+% \d:\d\d:\d\d", text), text


def test_two_batches_write_one_store_at_once(fleet, tmp_path):
    store = tmp_path / "weeks.sqlite"
    halves = (fleet[1][:4], fleet[1][4:8])
    batches = [start("batch", *half, "--jobs", 2, "--store", store) for half in halves]
    for batch in batches:
        output, errors = batch.communicate(timeout=120)
        assert (batch.returncode, errors) == (0, ""), output
    assert stored_count(store) == 8


def test_a_full_disk_keeps_what_is_stored(fleet, tmp_path):
    store = tmp_path / "weeks.sqlite"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    paths = fleet[1][:SOME]
    batch = start("batch", *paths, "--jobs", 2, "--store", store, preexec_fn=limit)
    output, errors = batch.communicate(timeout=120)
    assert (batch.returncode, errors) == (1, "")
    text = " ".join(output.split())
    assert f"{store}: store: " in text and "what was stored before is kept" in text
    kept = stored_count(store)
    assert 0 < kept < SOME
    batch = start("batch", *paths, "--store", store, "--format", "json")
    output, _ = batch.communicate(timeout=120)
    assert batch.returncode == 0
    assert json.loads(output)["run"]["reused"] == kept


def test_little_is_on_its_way_whatever_the_number_of_dumps(fleet, tmp_path):
    most = 0
    on_their_way = set()

    class Watched:
        capacity = 1

        def __init__(self, workers):
            self.workers = workers

        def submit(self, task):
            nonlocal most
            future = self.workers.submit(task)
            on_their_way.add(future)
            most = max(most, sum(not future.done() for future in on_their_way))
            return future

    inputs = find_inputs([str(path) for path in fleet[1][:10]]).dumps
    with open_store(str(tmp_path / "x.sqlite")) as store, open_local_workers(1) as workers:
        run = run_batch(inputs, Watched(workers), store, lambda d: Task(d.key, 60.0), lambda d, a: "host")
    assert run.read == 10 and run.cause is None
    assert 1 <= most <= AHEAD


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions of POSIX")
def test_a_folder_that_cannot_be_listed_is_said(tmp_path, capsys, monkeypatch):
    forge("pipo").save(tmp_path / "SRV01.dmp")
    locked = tmp_path / "locked"
    locked.mkdir()
    real = os.scandir

    def scandir(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    if os.geteuid() == 0:  # no folder is locked to root
        monkeypatch.setattr(os, "scandir", scandir)
    else:
        locked.chmod(0)
    assert main(["batch", str(tmp_path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"{locked}: cannot be listed: Permission denied" in out and "1 dump (1 done)" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["missing.dmp"], 3, "No such file"),
        (["nothing*.dmp"], 3, "no file matches"),
        (["."], 3, "no dump among 1 file"),
        (["x.txt", "--timeout", "100000000h"], 2, "expected a time of at most 366d"),
        (["x.txt", "--host-from", "nonsense"], 2, "expected folder, name, or a pattern"),
        (["x.txt", "--scheduler", "tcp://127.0.0.1:1"], 3, "tcp://127.0.0.1:1"),
        (["x.txt", "--store", "missing/x.sqlite"], 3, "unable to open"),
        (["x.txt", "--store", "x.txt"], 3, "not a database"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments, status, words, tmp_path, monkeypatch, capsys):
    if "--scheduler" in arguments:
        pytest.importorskip("distributed")
        monkeypatch.setattr("pykdext.fleet.workers._CONNECT_SECONDS", 0.5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("text" * 2000)
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(["batch", *arguments])
        assert ended.value.code == 2
    else:
        assert main(["batch", *arguments]) == status
    captured = capsys.readouterr()
    assert words in " ".join((captured.err + captured.out).split()) and "Traceback" not in captured.err


def test_dumps_of_a_web_server_are_read_and_their_traffic_told(tmp_path, capsys):
    pytest.importorskip("aiohttp")
    forge("pipo").save(tmp_path / "SRV01.dmp")
    with RangeServer(tmp_path) as server:
        assert main(["batch", f"{server.url}/SRV01.dmp", f"{server.url}/gone.dmp", "--format", "json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["run"]["fetched_bytes"] == document["dumps"][0]["fetched_bytes"]
        assert 0 < server.behaviour.sent_bytes <= document["run"]["fetched_bytes"]
        assert (document["dumps"][0]["host"], document["dumps"][0]["status"]) == ("SRV01", "done")
        assert "gone.dmp: cannot be listed" in document["warnings"][0]
        server.behaviour.stall_seconds = 30.0
        assert main(["batch", f"{server.url}/SRV01.dmp", "--timeout", "2s"]) == 3
        assert "no answer within 2 s" in capsys.readouterr().out


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="a Dask cluster needs distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PROJECT))
        with open_cluster(distributed, workers=2) as running:
            yield running


def open_cluster(distributed, workers):
    """A real scheduler, with worker processes that each read one dump at a time."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", host="127.0.0.1"
    )


def test_a_dask_cluster_gives_the_same_document(fleet, kept_batch, cluster, tmp_path):
    path, known = tmp_path / "batch.json", tmp_path / "known.json"
    assert main(words(fleet, "-o", path, "--scheduler", cluster.scheduler_address, count=SOME)) == 1
    store = shutil.copy(kept_batch[1], tmp_path)
    main(words(fleet, "-o", known, "--store", store, count=SOME))
    assert json.loads(known.read_text())["run"]["reused"] == SOME - 3, "all but those that fail"
    assert comparable(path) == comparable(known)


def test_a_killed_dask_worker_loses_nothing(fleet, by_processes, cluster, tmp_path):
    path, store = tmp_path / "batch.json", tmp_path / "weeks.sqlite"
    scheduler = cluster.scheduler_address
    batch = start(*words(fleet, "-o", path, "--store", store, "--scheduler", scheduler, count=SOME))
    wait_until(lambda: stored_count(store) >= 4)
    os.kill(cluster.workers[0].pid, signal.SIGKILL)
    output, errors = batch.communicate(timeout=240)
    assert (batch.returncode, output, errors) == (1, "", "")
    assert comparable(path)["dumps"] == by_processes["dumps"][-SOME:]


def test_a_cluster_without_workers_is_one_line(fleet, monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("pykdext.fleet.workers._CONNECT_SECONDS", 1.0)
    with open_cluster(distributed, workers=0) as cluster:
        assert main(["batch", str(fleet[1][0]), "--scheduler", cluster.scheduler_address]) == 3
    error = capsys.readouterr().err.splitlines()[0]
    assert error.startswith("poolleak: tcp://127.0.0.1:") and "found a scheduler without workers" in error


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "found somebody who is no Dask scheduler"),
        (struct.pack("<QQ", 24, 1 << 40) + bytes(99), "found somebody who is no Dask scheduler"),
        (b"", "does not say who it is"),
    ],
)
def test_somebody_else_at_the_scheduler_is_one_line(sent, words, tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed")
    monkeypatch.setattr("pykdext.fleet.workers._CONNECT_SECONDS", 1.0)
    forge("pipo").save(tmp_path / "SRV01.dmp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []
        threading.Thread(target=lambda: accepted.append(answer(server, sent)), daemon=True).start()
        assert main(["batch", str(tmp_path), "--scheduler", f"tcp://127.0.0.1:{server.getsockname()[1]}"]) == 3
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1


def answer(server, sent):
    """Send the same to whoever connects first, and keep the connection open."""
    connection, _ = server.accept()
    connection.sendall(sent)
    return connection


def test_a_scheduler_that_goes_away_ends_the_batch_in_one_line(fleet, tmp_path):
    distributed = pytest.importorskip("distributed")
    store = tmp_path / "weeks.sqlite"
    with open_cluster(distributed, workers=1) as cluster:
        batch = start("batch", *fleet[1][:20], "--store", store, "--scheduler", cluster.scheduler_address)
        wait_until(lambda: stored_count(store) >= 2)
    output, errors = batch.communicate(timeout=120)
    assert (batch.returncode, errors) == (1, "")
    assert "scheduler went away" in " ".join(output.split())
    assert stored_count(store) >= 2


def test_weeks_of_a_host_are_kept(tmp_path, capsys):
    store, dump = tmp_path / "weeks.sqlite", tmp_path / "SRV01" / "MEMORY.DMP"
    dump.parent.mkdir()
    begin = datetime(2024, 9, 1, tzinfo=timezone.utc)
    for week in range(8):
        forge("pipo", seed=week).save(dump)
        set_time(dump, begin + timedelta(weeks=week))
        os.utime(dump, ns=(week, week))
        with open_batch(BatchRequest((str(dump),), 60.0, store=str(store))) as batch:
            assert batch.summary.hosts == 1
    assert main(["history", "Pipo", "--store", str(store), "--width", "100"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "Pipo" in line)
    assert line.split()[:6] == ["SRV01", "Pipo", "Nonp", "8", "2024-09-01", "2024-10-20"]
