"""The README's commands are run, and what they print is what it shows."""

from __future__ import annotations

import re
import shlex

import pytest

from dumps.forge.__main__ import main as forge_main
from pykdext.cli.commands import COMMANDS
from pykdext.cli.main import main
from tests.conftest import PROJECT
from tests.helpers.windbgscreens import windbg_session

README = (PROJECT / "README.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"```console\n\$ ((?:poolleak|python -m dumps.forge) [^\n]*)\n(.*?)```", README, re.DOTALL)

WINDBG_SESSIONS = re.findall(r"```text\nkd> !py (poolleak [^\n]*)\n(.*?)```", README, re.DOTALL)


def test_the_readme_shows_sessions():
    assert len(SESSIONS) >= 5
    assert any("pippo.sys" in output for _, output in SESSIONS)


def test_the_readme_shows_what_is_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "dumps").symlink_to(PROJECT / "dumps", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for command, output in SESSIONS:
        program, *words = shlex.split(command)
        status = main(words) if program == "poolleak" else forge_main(words[2:])
        captured = capsys.readouterr()
        assert (status, captured.err) == (0, ""), command
        assert without_speed(captured.out) == without_speed(output), command


def without_speed(text):
    return re.sub(r"read in [^\n]*", "read", text)


def test_the_readme_shows_what_windbg_shows(tmp_path, monkeypatch):
    (tmp_path / "dumps").symlink_to(PROJECT / "dumps", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert len(WINDBG_SESSIONS) == 2
    for command, output in WINDBG_SESSIONS:
        assert windbg_session(command) == output, command


@pytest.mark.parametrize("name", ["try", "test"])
def test_there_is_one_command_to_try_and_one_to_test(name):
    block = re.search(rf"<!-- command: {name} -->\n```sh\n([^\n]+)\n```", README)
    assert block, f"the README's {name} command is one line of a sh block"
    assert block.group(1).startswith("python3 -m venv .venv && .venv/bin/pip install --quiet ")


def test_every_command_and_option_is_documented_in_help(capsys):
    for words in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        text = capsys.readouterr().out
        for option in re.findall(r"(?m)^  (?:-\w.*?, )?(--[\w-]+)(.*\n?.*)", text):
            assert option[1].strip(), f"{words} {option[0]} has no help"
