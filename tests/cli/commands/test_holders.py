"""``holders`` and ``processes`` on the command line, in every form, with names that lie, and in the debugger."""

from __future__ import annotations

import csv
import io
import json

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from tests.helpers.objectmachines import make_machine


@pytest.fixture
def run(capsys):
    def answer(*words):
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return answer


@pytest.fixture
def zombies(tmp_path):
    path = tmp_path / "zombies.dmp"
    make_machine("zombies").save(path)
    return path


def test_the_sentence_is_that_of_an_engineer(run, zombies):
    status, out, err = run("holders", "Proc", zombies, "--width", "80")
    words = " ".join(out.split())
    assert (status, err) == (0, "")
    assert "400 exited processes, all cmd.exe, are held by watchman.exe (pid 2428)" in words
    assert "a handle leak of that process. [proven]" in words
    assert "Next: !handle 0 3 0n2428" in words
    assert all(len(line) <= 80 for line in out.splitlines() if str(zombies) not in line)


def test_processes_by_the_exited_ones_they_hold(run, zombies):
    status, out, _ = run("processes", zombies, "--sort", "zombies", "--top", "3", "--width", "80")
    rows = [line.split() for line in out.splitlines() if line.startswith("watchman.exe")]
    assert status == 0
    assert rows[0][1] == "2428"
    assert rows[0][-1] == "400"
    assert all(len(line) <= 80 for line in out.splitlines() if str(zombies) not in line)


def test_csv_has_the_numbers_whole(run, zombies):
    _, out, _ = run("processes", zombies, "--format", "csv", "--top", "1000")
    rows = list(csv.DictReader(io.StringIO(out)))
    truth = {process.pid: process for process in make_machine("zombies").truth.objects.processes}
    assert len(rows) == sum(not process.exited_at for process in truth.values())
    for row in rows:
        assert int(row["handles"]) == truth[int(row["pid"])].handles
    _, out, _ = run("holders", "Proc", zombies, "--format", "csv")
    held = [row for row in csv.DictReader(io.StringIO(out)) if (row["pid"], row["type"]) == ("2428", "Process")]
    assert int(held[0]["handles"]) == truth[2428].handle_types["Process"]


@pytest.mark.parametrize("words", [("holders", "Proc"), ("processes",)])
def test_pages(run, zombies, tmp_path, words):
    pytest.importorskip("jinja2", reason="jinja2 (extra html) is not installed")
    page = tmp_path / "page.html"
    status, _, _ = run(*words, zombies, "--format", "html", "-o", page)
    assert status == 0
    assert "watchman.exe" in page.read_text("utf-8")


def test_hostile_names_neither_reach_the_terminal_nor_the_page(run, tmp_path):
    pytest.importorskip("jinja2", reason="jinja2 (extra html) is not installed")
    machine = forge("zombies", leaked=400, healthy_share=32)
    victim = machine.truth.objects.process(2428)
    machine.write_virtual(victim.va + 0x5A8, b"<b>\x1b[2J&\x07\x9b.exe\0\0")
    machine.save(tmp_path / "m.dmp")
    _, out, _ = run("holders", "Proc", tmp_path / "m.dmp")
    assert "<b>?[2J&??.exe (pid 2428)" in out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)
    run("holders", "Proc", tmp_path / "m.dmp", "--format", "html", "-o", tmp_path / "m.html")
    text = (tmp_path / "m.html").read_text("utf-8")
    assert "<b>?" not in text
    assert "&lt;b&gt;?[2J&amp;" in text


def test_a_torn_list_is_said_and_ends_with_status_1(run, tmp_path):
    make_machine("zombies", pages_lost=True).save(tmp_path / "torn.dmp")
    status, out, _ = run("processes", tmp_path / "torn.dmp")
    assert status == 1
    assert "list is torn" in out
    _, out, _ = run("processes", tmp_path / "torn.dmp", "--format", "json")
    assert json.loads(out)["lost"] == 1


def test_a_machine_whose_list_is_empty(run, tmp_path):
    forge("quiet").save(tmp_path / "empty.dmp")
    status, out, _ = run("processes", tmp_path / "empty.dmp")
    assert status in (1, 3)
    assert "list is empty" in out


def test_a_tag_of_five_letters(run, zombies):
    with pytest.raises(SystemExit):
        run("holders", "Processes", zombies)
