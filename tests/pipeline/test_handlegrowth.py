"""Two dumps of one machine: the process whose handles grew is named, and exited processes that are held."""

from __future__ import annotations

import json

from dumps.forge import forge
from pykdext.cli.main import main


def compare(capsys, folder, scenario, before, after):
    for name, leaked in (("before", before), ("after", after)):
        forge(scenario, leaked=leaked, healthy_share=64).save(folder / f"{name}.dmp")
    main(["diff", str(folder / "before.dmp"), str(folder / "after.dmp"), "--format", "json"])
    return json.loads(capsys.readouterr().out)


def test_handles_that_grew(capsys, tmp_path):
    document = compare(capsys, tmp_path, "handles", 500, 4_500)
    assert "The handles of printmon.exe (pid 4312) grew most, by" in document["verdict"]
    commands = [step["command"] or "" for step in document["next_steps"]]
    assert any(command.startswith("poolleak holders Even ") for command in commands)


def test_exited_processes_that_stay(capsys, tmp_path):
    said = compare(capsys, tmp_path, "zombies", 100, 600)["verdict"]
    assert "500 more exited processes are held, most of them by watchman.exe (pid 2428)." in said


def test_nothing_is_said_where_nothing_grew(capsys, tmp_path):
    assert "handles of" not in compare(capsys, tmp_path, "handles", 500, 500)["verdict"]
