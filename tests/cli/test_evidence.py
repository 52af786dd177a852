"""Real dumps through the command line: what they hold is told, and why they hold no tag tables."""

from __future__ import annotations

import json

import pytest

from pykdext.cli.main import main


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("name", "modules", "build", "machine", "bugcheck", "line"),
    [
        ("triage_x64.dmp", 151, 19041, "x64", 0x1000007E, "Bugcheck 1000007E SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M"),
        ("triage_arm64.dmp", 245, 22000, "arm64", 0x1C8, "Bugcheck 000001C8 MANUALLY_INITIATED_POWER_BUTTON_HOLD"),
    ],
)
def test_a_small_memory_dump_tells_what_it_has(evidence, capsys, name, modules, build, machine, bugcheck, line):
    path = evidence / "dumps" / name
    status, out, err = run(capsys, path, "--width", "100")
    words = " ".join(out.split())
    assert (status, err) == (3, "")
    assert f"Windows build {build} {machine}" in out
    assert line in out
    assert f"Loaded images: {modules}" in out
    assert "a small memory dump holds no pool tag tables" in words
    assert "CrashDumpEnabled" in words

    status, out, _ = run(capsys, path, "--format", "json")
    document = json.loads(out)
    assert status == 3
    assert document["schema"] == "poolleak.summary/1"
    assert document["bugcheck"]["code"] == bugcheck
    assert sum(not module["unloaded"] for module in document["modules"]) == modules


def test_other_commands_say_it_in_one_line(evidence, capsys):
    for command in (["used"], ["find", "Pipo"], ["blocks", "Pipo"]):
        status, out, err = run(capsys, *command, evidence / "dumps" / "triage_x64.dmp")
        assert (status, out) == (3, "")
        assert err.count("\n") == 1
        assert "no pool tag tables" in err


def test_a_dump_without_its_body_is_said_to_be_truncated(evidence, capsys):
    status, out, _ = run(capsys, evidence / "dumps" / "dmp64-full-truncated-16k.dmp")
    words = " ".join(out.split())
    assert status == 3
    assert "Windows build 19045 x64, 4 processors" in out
    assert "truncated: 2 of its 523,910 pages are in the file" in words
