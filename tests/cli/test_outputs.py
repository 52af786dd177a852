"""Where answers go: never over what is read, and never in silence where something is missing."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from tests.conftest import PROJECT

LOGS = PROJECT / "dumps" / "samples" / "poolmon"
DRIVERS = PROJECT / "dumps" / "drivers" / "images" / "x64"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    forge("pipo").save(tmp_path / "a.dmp")
    shutil.copytree(LOGS, tmp_path / "logs")
    shutil.copytree(DRIVERS, tmp_path / "drivers")
    (tmp_path / "link.dmp").symlink_to("a.dmp")
    os.link(tmp_path / "a.dmp", tmp_path / "hard.dmp")
    (tmp_path / "tags.txt").write_text("Pipo - pippo.sys - words\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "used a.dmp -o a.dmp",
        "used a.dmp -o ./logs/../a.dmp",
        "used a.dmp -o link.dmp",
        "used hard.dmp -o a.dmp",
        "link.dmp --format json -o a.dmp",
        "snapshot a.dmp -o a.dmp",
        "blocks Pipo a.dmp -o a.dmp",
        "diff a.dmp a.dmp -o a.dmp",
        "diff logs/poolmon-2024-11-11_0100.txt a.dmp -o a.dmp",
        "trend logs -o logs/poolmon-2024-11-11_0100.txt",
        "trend logs/**/*.txt -o logs/poolmon-2024-11-11_0100.txt",
        "find Pipo --images drivers -o drivers/pippo.sys",
        "find Pipo --images drivers/pippo.sys -o drivers/pippo.sys",
        "used a.dmp --pooltags tags.txt -o tags.txt",
        "batch . -o a.dmp",
        "batch *.dmp -o link.dmp",
    ],
)
def test_no_answer_goes_over_what_is_read(folder, words, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert "which this command reads, expected another file" in captured.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_store_is_never_the_output_of_what_reads_it(folder, capsys):
    assert main(["batch", "a.dmp", "--store", "weeks.sqlite", "--jobs", "1"]) == 0
    stored = (folder / "weeks.sqlite").read_bytes()
    for words in ("history --store weeks.sqlite", "used weeks.sqlite", "used weeks.sqlite::a", "trend weeks.sqlite"):
        assert main([*words.split(), "-o", "weeks.sqlite"]) == 2
    assert (folder / "weeks.sqlite").read_bytes() == stored


def test_an_older_answer_is_replaced(folder):
    for words in ("used a.dmp -o report.txt", "trend logs -o trend.html.txt", "batch . -o batch.json --format json"):
        assert main(words.split()) == main(words.split()) == 0


@pytest.fixture
def partial(tmp_path):
    """A dump of which 586 of the 1,025 rows of one table are missing."""
    machine = forge("pipo")
    row_bytes = machine.table_bytes // 1025
    address = machine.addresses["table:2"]
    machine.omit(address + (439 * row_bytes & -4096), 586 * row_bytes)
    machine.save(tmp_path / "x.dmp")
    return tmp_path / "x.dmp"


@pytest.mark.parametrize(
    "words", ["used {}", "{}", "blocks Pipo {}", "snapshot {}", "diff {} {}", "trend {}", "used {} --format csv"]
)
@pytest.mark.parametrize("to_file", [True, False])
def test_a_state_that_was_read_in_part_is_told_by_every_command(partial, words, to_file, tmp_path, capsys):
    words = words.format(partial, partial).split()
    if to_file or words[0] == "snapshot":
        words += ["-o", str(tmp_path / "out")]
    assert main(words) == 1
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "rows are not in the target" in said or "read in part" in said
    assert all(line.startswith("poolleak: ") for line in captured.err.splitlines())
    assert bool(captured.err) == ("-o" in words or "csv" in words)


def test_a_file_without_a_verdict_is_not_left_in_silence(tmp_path, capsys):
    machine = forge("pipo")
    for number in range(4):
        machine.omit(machine.addresses[f"table:{number}"], machine.table_bytes)
    machine.save(tmp_path / "x.dmp")
    for form in ("text", "json", "csv"):
        assert main([str(tmp_path / "x.dmp"), "--format", form, "-o", str(tmp_path / "out")]) == 3
        assert capsys.readouterr().err.startswith("poolleak: no verdict: ")
    assert main([str(tmp_path / "x.dmp"), "--format", "json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "poolleak.summary/1" and captured.err == ""
