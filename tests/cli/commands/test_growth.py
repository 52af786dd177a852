"""diff, trend and record as a user meets them."""

from __future__ import annotations

import gzip
import json
import shutil
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest

from dumps.forge import forge
from dumps.forge.poolmonlogs import HOURS, iter_logs
from pykdext.cli.main import main
from pykdext.pipeline import record_samples
from pykdext.records.snapshotfile import load_snapshot
from tests.conftest import PROJECT
from tests.helpers.builders import row, snapshot, usage
from tests.helpers.fakepykd import FakePykd
from tests.helpers.fakepykd_console import visible_text

SAMPLES = PROJECT / "dumps" / "samples" / "poolmon"


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (3, "")
    assert err.startswith("poolleak: ")
    assert err.count("\n") == 1
    return err


def test_the_sample_logs_are_what_the_forge_writes():
    written = {path.name: path.read_text() for path in SAMPLES.iterdir()}
    assert written == dict(iter_logs())


@pytest.mark.parametrize("form", ["folder", "pattern", "files"])
def test_a_series_names_the_leak_its_rate_and_its_deadline(capsys, form):
    paths = {"folder": [SAMPLES], "pattern": [SAMPLES / "*.txt"], "files": sorted(SAMPLES.iterdir())}[form]
    status, out, _ = run(capsys, "trend", *paths, "--format", "json")
    document = json.loads(out)
    assert status == 0
    assert document["samples"] == HOURS
    first = document["trends"][0]
    assert (first["tag"], first["pool"], first["verdict"]) == ("Pipo", "nonpaged", "leak")
    assert first["slope_bytes_per_hour"] == pytest.approx(18_200 * 432, rel=0.01)
    assert first["hours_to_limit"] > 0
    assert [trend["tag"] for trend in document["trends"] if trend["verdict"] in ("leak", "growth")] == ["Pipo"]


def test_files_that_are_no_logs_are_left_out_and_named(capsys, tmp_path):
    for path in SAMPLES.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "notes.txt").write_text("remember to reboot\n")
    status, out, _ = run(capsys, "trend", tmp_path)
    assert status == 1
    assert "leak" in out
    assert "notes.txt" in " ".join(out.split())


def test_samples_without_a_time_get_one(capsys, tmp_path):
    names = []
    for number, (_, text) in enumerate(iter_logs()):
        names.append(tmp_path / f"log-{number:03}.txt")
        names[-1].write_text(text)
    _, out, _ = run(capsys, "trend", *names, "--every", "1h", "--format", "json")
    assert json.loads(out)["trends"][0]["slope_bytes_per_hour"] == pytest.approx(18_200 * 432, rel=0.01)


def test_different_machines_are_no_series(capsys, tmp_path):
    for build in (19041, 22000):
        forge("pipo", build=build).save(tmp_path / f"{build}.dmp")
    assert "--mixed" in fails(capsys, "trend", tmp_path)
    status, _, _ = run(capsys, "trend", tmp_path, "--mixed")
    assert status == 0


def test_a_dump_is_compared_with_a_log(capsys, tmp_path):
    forge("pipo", build=19041).save(tmp_path / "MEMORY.DMP")
    first = sorted(SAMPLES.iterdir())[0]
    status, out, _ = run(capsys, "diff", first, tmp_path / "MEMORY.DMP", "--format", "json", "--tag", "Pipo")
    document = json.loads(out)
    assert status == 0
    assert [delta["tag"] for delta in document["deltas"]] == ["Pipo"]
    assert document["deltas"][0]["bytes"] == 2_078_933_040 - 30_981 * 432


def test_nothing_differs_from_itself(capsys, tmp_path):
    forge("quiet").save(tmp_path / "MEMORY.DMP")
    _, out, _ = run(capsys, "diff", tmp_path / "MEMORY.DMP", tmp_path / "MEMORY.DMP", "--format", "json")
    assert json.loads(out)["deltas"] == []


@pytest.mark.parametrize(
    ("keys", "first"), [("bytes", "Pipo"), ("outstanding,tag", "Pipo"), ("rate", "Pipo"), ("allocs,frees", "Irp ")]
)
def test_deltas_sort_by_several_columns(capsys, keys, first):
    files = sorted(SAMPLES.iterdir())
    status, out, _ = run(capsys, "diff", files[0], files[-1], "--sort", keys, "--pool", "nonpaged", "--top", 2)
    assert status == 0
    table = out[out.index("----") :].splitlines()
    assert table[1].startswith(first)
    assert "Paged" not in out.split("rows that differ")[0]


@pytest.mark.parametrize("words", [["diff", "a", "b", "--sort", "size"], ["trend", "x", "--every", "soon"], ["diff"]])
def test_wrong_usage_is_status_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_there_is_nothing_live_to_record_here(capsys, tmp_path):
    assert "only Windows has live pools" in fails(capsys, "record", "-o", tmp_path)
    assert "only Windows has live pools" in fails(capsys, "used")


def test_the_recipe_needs_no_windows_to_print(capsys):
    status, out, _ = run(capsys, "record", "--recipe", "--every", "5m", "--count", 12)
    assert status == 0
    assert "$EverySeconds = 300, [int]$Count = 12" in out
    assert "NtQuerySystemInformation" in out


class Clock:
    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_samples_are_taken_at_fixed_times_and_whole(monkeypatch, tmp_path):
    clock, taken = Clock(), []

    def live(_path, **_options):
        clock.now += 7.0  # reading takes its time
        moment = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=clock.now)
        taken.append(snapshot(row("Pipo", usage(len(taken) + 2, 1, 640)), taken_at=moment))
        return (taken[-1],)

    monkeypatch.setattr("pykdext.pipeline.recording.load_states", live)
    paths = list(record_samples(str(tmp_path / "new"), 60, 3, let_pass=clock.sleep, clock=clock))
    assert clock.slept == [53.0, 53.0]
    assert [load_snapshot(path) for path in paths] == taken
    assert all(gzip.open(path).read() for path in paths)
    clock.now = Clock().now  # put back: the same times once more
    more = list(record_samples(str(tmp_path / "new"), 60, 3, let_pass=clock.sleep, clock=clock))
    assert [load_snapshot(path) for path in (*paths, *more)] == taken


@pytest.fixture
def server():
    return forge("pipo", build=19041)


def test_a_remote_machine_is_resumed_for_the_interval_and_stopped_again(server, monkeypatch, tmp_path, capsys):
    fake = FakePykd.of_machine(server, system="remote")
    fake.install(monkeypatch)
    standing = partial(record_samples, clock=lambda: 0.0)  # whether a sample comes late depends on the load
    monkeypatch.setattr("pykdext.pipeline.record_samples", standing)
    assert run(capsys, "record", "-o", tmp_path, "--every", "0.05s", "--count", 3) == (0, "", "")
    assert fake.ran == 2
    states = [load_snapshot(str(path)) for path in sorted(tmp_path.iterdir())]
    assert len(states) == len(visible_text(fake.console.pieces).splitlines()) == 3
    assert all(state.source.kind == "live kernel session" for state in states)


def test_a_machine_that_stops_by_itself_ends_the_recording(server, monkeypatch, tmp_path, capsys):
    fake = FakePykd.of_machine(server, system="remote")
    fake.stops_by_itself = True
    fake.install(monkeypatch)
    assert run(capsys, "record", "-o", tmp_path, "--every", "1h", "--count", 3) == (3, "", "")
    assert "stopped before its time" in visible_text(fake.console.pieces)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_local_kernel_reads_on(server, monkeypatch, tmp_path, capsys):
    fake = FakePykd.of_machine(server, system="local")
    fake.install(monkeypatch)
    status, _, _ = run(capsys, "record", "-o", tmp_path, "--every", "0.05s", "--count", 2)
    assert (status, fake.ran, len(list(tmp_path.iterdir()))) == (0, 0, 2)


def test_a_dump_in_the_debugger_is_not_recorded(server, monkeypatch, tmp_path, capsys):
    fake = FakePykd.of_machine(server).install(monkeypatch)
    assert run(capsys, "record", "-o", tmp_path / "none") == (3, "", "")
    assert "stands still" in visible_text(fake.console.pieces)
    assert not (tmp_path / "none").exists()


def test_ctrl_break_while_the_machine_runs_goes_on(server, monkeypatch, tmp_path):
    fake = FakePykd.of_machine(server, system="remote")

    def broken():
        raise SystemExit("CTRL+BREAK")

    fake.go = broken
    fake.install(monkeypatch)
    with pytest.raises(SystemExit, match="CTRL"):
        main(["record", "-o", str(tmp_path), "--every", "1h", "--count", "3"])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_log_of_no_use_is_refused_in_its_own_words(tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("no log")
    assert main(["trend", str(tmp_path / "a.txt")]) == 3
    assert capsys.readouterr().err.startswith(
        f"poolleak: {tmp_path / 'a.txt'}: found text that begins 'no log', expected"
    )
    assert main(["trend", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]) == 3
    err = capsys.readouterr().err
    assert "found nothing of use (" in err and "; and 1 more), expected logs, snapshots or dumps" in err
