"""The commands of the README and of docs are run, and what they print is what the pages show."""

from __future__ import annotations

import re
import shlex

import pytest

import pykdext
from dumps.forge.__main__ import main as forge_main
from pykdext.cli.commands import COMMANDS
from pykdext.cli.main import main
from tests.conftest import PROJECT
from tests.helpers.windbgscreens import windbg_session

README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8")
    for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
}
SESSION = re.compile(r"```console\n\$ ((?:poolleak|python -m dumps.forge) [^\n]*)\n(.*?)```", re.DOTALL)
WINDBG_SESSION = re.compile(r"```text\nkd> !py (poolleak [^\n]*)\n(.*?)```", re.DOTALL)


def test_the_readme_is_short_and_shows_the_verdict():
    assert len(README.splitlines()) < 250
    assert any("pippo.sys" in output for _, output in SESSION.findall(README))
    assert sum(len(SESSION.findall(text)) for text in PAGES.values()) >= 15


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if SESSION.search(text)])
def test_a_page_shows_what_is_printed(page, tmp_path, monkeypatch, capsys):
    (tmp_path / "dumps").symlink_to(PROJECT / "dumps", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for command, output in SESSION.findall(PAGES[page]):
        program, *words = shlex.split(command)
        status = main(words) if program == "poolleak" else forge_main(words[2:])
        captured = capsys.readouterr()
        assert (status, captured.err) == (0, ""), command
        assert without_speed(captured.out) == without_speed(output), command


def test_links_lead_to_files_that_are_there():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\((?!https://)([^)#]+)\)", text):
            assert (PROJECT / page).parent.joinpath(target).is_file(), (page, target)


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_pasted_into_zsh_and_cmd(page):
    for command in re.findall(r"(?m)^\$ (poolleak [^\n]*)$|`(poolleak [^`]*)`|`(pip install [^`]*)`", PAGES[page]):
        typed = "".join(command)
        assert "'" not in typed, "cmd.exe takes no single quotes"
        assert not re.search(r"[*?\[\]]", re.sub(r'"[^"]*"', "", typed)), "zsh expands it"


def test_what_is_installed_has_its_version():
    assert f"pykdext-{pykdext.__version__}-py3" in PAGES["docs/install.md"]


def without_speed(text):
    return re.sub(r"read in [^\n]*", "read", text)


def test_windbg_shows_what_its_page_shows(tmp_path, monkeypatch):
    (tmp_path / "dumps").symlink_to(PROJECT / "dumps", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    sessions = WINDBG_SESSION.findall(PAGES["docs/windbg.md"])
    assert len(sessions) == 2
    for command, output in sessions:
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
