"""Completion of the shell: what its script offers, asked of the shell itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from pykdext.cli.commands import COMMANDS
from pykdext.cli.main import main


@pytest.fixture
def script(tmp_path):
    pytest.importorskip("shtab", reason="shtab (extra completion) is not installed")
    path = tmp_path / "poolleak.bash"
    assert main(["completion", "bash", "-o", str(path)]) == 0
    return path


def complete(script, *words):
    """What bash offers for the last word."""
    code = (
        f"source {script}; COMP_WORDS=({' '.join(words)!s}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); "
        'COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; '
        '$(complete -p poolleak | sed "s/.*-F \\([^ ]*\\).*/\\1/") poolleak; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    code = code.replace("$(complete -p poolleak | sed", "fn=$(complete -p poolleak | sed").replace(
        '/\\1/") poolleak;', '/\\1/"); $fn poolleak "${COMP_WORDS[COMP_CWORD]}";'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_choices(script):
    assert complete(script, "poolleak", "tr") == ["trend"]
    assert set(complete(script, "poolleak", "h")) == {name for name in COMMANDS if name.startswith("h")}
    assert "--images" in complete(script, "poolleak", "find", "--i")
    assert complete(script, "poolleak", "used", "--format", "j") == ["json"]


ZSH = """
zmodload zsh/zpty
TERM=dumb
zpty z zsh -f -i
zpty -w z "fpath=($1 \\$fpath); autoload -Uz compinit && compinit -u -d $1/dump; setopt no_beep; PS1='rea%{%}dy>'"
zpty -r -m z out '*ready>*'
zpty -w -n z "$2"$'\\t'
zpty -w -n z $'\\x15print -r -- en""ded\\n'
zpty -r -m z out '*ended*'
print -r -- $out
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("poolleak tre", "trend"), ("poolleak find --ima", "--images"), ("poolleak used --format js", "json")],
)
def test_zsh_completes(tmp_path, typed, offered):
    pytest.importorskip("shtab", reason="shtab (extra completion) is not installed")
    assert main(["completion", "zsh", "-o", str(tmp_path / "_poolleak")]) == 0
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH, "zsh", str(tmp_path), typed], capture_output=True, text=True, timeout=60
    )
    assert offered in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "powershell"])
def test_every_shell_gets_all_commands(shell, capsys):
    pytest.importorskip("shtab", reason="shtab (extra completion) is not installed")
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS) and "--pooltags" in out


def test_without_the_library_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "pykdext[completion]" in captured.err


def test_powershell_gets_the_words_of_each_command(capsys):
    assert main(["completion", "powershell"]) == 0
    out = capsys.readouterr().out
    words = dict(re.findall(r"(?m)^        '([^']*)' = @\((.*)\)$", out))
    assert set(COMMANDS) <= set(words) and set(re.findall(r"'([\w-]+)'", words[""])) >= set(COMMANDS)
    assert "'--images'" in words["find"] and "'--images'" not in words["used"]
    assert words["used --format"].startswith("'text', 'json', 'csv'")
    assert "'powershell'" in words["completion"]
    assert len({key.lower() for key in re.findall(r"(?m)^        '([^']*)' = ", out)}) == len(words)  # of a hash table
    for opening, closing in ("{}", "()", "[]"):
        assert out.count(opening) == out.count(closing)


@pytest.mark.skipif(shutil.which("pwsh") is None, reason="needs PowerShell")
def test_powershell_completes(tmp_path):
    path = tmp_path / "poolleak.ps1"
    assert main(["completion", "powershell", "-o", str(path)]) == 0
    code = (
        f". {path}; [System.Management.Automation.CommandCompletion]::CompleteInput('poolleak tr', 11, $null)"
        ".CompletionMatches.CompletionText"
    )
    done = subprocess.run(["pwsh", "-NoProfile", "-Command", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["trend"]
