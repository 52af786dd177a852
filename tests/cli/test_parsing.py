"""Help, and what is said of words that were meant otherwise: one line, with a guess."""

from __future__ import annotations

import json
import re

import pytest

from pykdext.cli.commands import COMMANDS
from pykdext.cli.main import main
from pykdext.cli.parsing import build_command_parser, load_command


def end(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        (["usde"], "did you mean used?"),
        (["fnd", "Pipo", "x.dmp"], "did you mean find?"),
        (["FIND", "Pipo"], "did you mean find?"),
        (["setup"], "did you mean setup-windbg?"),
        (["used", "x", "--tpo", "3"], "did you mean --top?"),
        (["used", "x", "--fromat=json"], "did you mean --format?"),
        (["help", "trent"], "did you mean trend?"),
        (["open", "x.dmp"], "expected one of analyze, used, find"),
        (["used", "x", "y"], "found y, expected no more words"),
        (["blocks"], "TAG"),
        (["blocks", "Pipo", "x", "--pooltags", "y"], "found --pooltags"),
        (["schema", "--width", "80"], "found --width"),
        (["find", "Pipo", "x", "--frob"], "found --frob, which is no option of this command"),
        (["used", "x", "--format", "jsn"], "found 'jsn', did you mean json?"),
        (["completion", "fish"], "found 'fish', expected one of bash, zsh"),
    ],
)
def test_wrong_usage_is_one_line_with_a_guess(words, guess, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = end(capsys, *words)
    assert (status, out) == (2, "")
    assert guess in err and err.count("\n") == 1
    assert err.startswith("poolleak") and "Hint: poolleak" in err


def test_a_file_that_is_called_like_a_command_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "usde").write_text("no log")
    assert main(["usde"]) == 3
    assert "no log" in capsys.readouterr().err


def test_hostile_words_stay_harmless(capsys):
    _, _, err = end(capsys, "used", "x", "\x1b[2J\u202e", "https://user:secret@host/x")
    assert "\\x1b[2J" in err and "\x1b" not in err and "secret" not in err


@pytest.mark.parametrize("words", [["help"], ["-?"], ["/?"], ["-h"], ["--help"]])
def test_ways_to_ask_for_help(words, capsys):
    status, out, err = end(capsys, *words)
    assert (status, err) == (0, "")
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_ways_to_ask_for_help_of_a_command(name, capsys):
    status, out, err = end(capsys, "help", name)
    assert (status, err) == (0, "")
    assert out == end(capsys, name, "-?")[1] == end(capsys, name, "/?")[1] == end(capsys, name, "--help")[1]
    assert "examples:" in out and "exit status:" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_right_usage(name):
    for example in load_command(name).examples:
        assert "'" not in example  # cmd.exe hands them on
        program, *words = re.split(" (?:>>?|\\|) ", example)[0].replace('"', "").split()  # the rest is the shell's
        assert program == "poolleak"
        build_command_parser(name).parse_words(words[1:] if words[0] == name else words)


def test_a_schema_by_the_name_of_its_document(capsys):
    for name in ("report", "report/1", "poolleak.report", "poolleak.report/1"):
        assert main(["schema", name]) == 0
        assert json.loads(capsys.readouterr().out)["title"] == "poolleak.report/1"


@pytest.mark.parametrize("words", [[], ["used"], ["find", "Pipo"], ["blocks", "Pipo"]])
def test_a_folder_as_source_names_who_takes_it(words, tmp_path, capsys):
    assert main([*words, str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "found a folder" in err and "trend" in err and "batch" in err
