"""What a terminal gets: words that stand out, letters of all scripts, the verdict twice, no flood of rows."""

from __future__ import annotations

import io
import sys

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.model import LockstepGroup, LockstepMember, PoolKind, PoolTag, Role, SnapshotSource
from pykdext.report.grouptable import group_lines
from pykdext.report.layout import format_table
from pykdext.report.links import Links
from pykdext.report.markup import AnsiMarkup, render_lines

BOLD, RED, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"
ALARMING = "\x1b[1;31m"


class Terminal(io.StringIO):
    def __init__(self, encoding="utf-8"):
        super().__init__()
        self._encoding = encoding

    encoding = property(lambda self: self._encoding)

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo", build=19041).save(path)
    return path


@pytest.fixture
def show(monkeypatch):
    def run(*words, encoding="utf-8", lines=500, columns=100, **environment):
        for name in ("NO_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"LINES": str(lines), "COLUMNS": str(columns), **environment}.items():
            monkeypatch.setenv(name, value)
        terminal = Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", terminal)
        main([str(word) for word in words])
        return terminal.getvalue()

    return run


def verdicts(text):
    return text.count(f"{ALARMING}Tag Pipo holds")


def test_the_verdict_stands_out(show, dump):
    text = show(dump)
    assert verdicts(text) == 1
    assert text.count(BOLD) + text.count(ALARMING) + text.count(RED) == text.count(PLAIN) == text.count("\x1b") // 2
    assert text.count(f"{RED}cause{PLAIN}") == 2, "roles have a colour in the tables"


@pytest.mark.parametrize(
    ("words", "environment"),
    [([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), (["--color", "never"], {})],
)
def test_what_switches_it_off(show, dump, words, environment):
    assert "\x1b" not in show(dump, *words, **environment)


def test_a_pipe_has_it_only_when_it_is_asked_for(dump, capsys):
    main([str(dump)])
    assert "\x1b" not in capsys.readouterr().out
    main([str(dump), "--color", "always"])
    assert verdicts(capsys.readouterr().out) == 1


def test_a_file_never_has_it(show, dump, tmp_path):
    assert show(dump, "-o", tmp_path / "out.txt", "--color", "always") == ""
    assert "\x1b" not in (tmp_path / "out.txt").read_text()


def test_the_verdict_is_said_again_where_its_first_lines_are_gone(show, dump):
    short = show(dump, lines=10)
    assert verdicts(short) == 2
    assert short.rstrip().endswith(f"(proven).{PLAIN}")
    assert show(dump, lines=10, NO_COLOR="1").count("Tag Pipo holds") == 2


def test_a_terminal_gets_the_largest_rows_and_how_many_more(show, dump, capsys):
    for view in ("poolmon", "poolused"):
        text = show("used", dump, "--view", view)
        assert len([line for line in text.splitlines() if line[4:5] in (" ", "") and "," in line]) <= 30
        assert "more rows are not shown on a terminal" in text
        assert "more rows" not in show("used", dump, "--view", view, "--top", 200)
    assert "25 rows shown" in show("used", dump)


def test_a_pipe_gets_all_rows(dump, capsys):
    main(["used", str(dump)])
    out = capsys.readouterr().out
    assert "more rows" not in out and len(out.splitlines()) > 150


@pytest.fixture
def named(dump, tmp_path):
    path = tmp_path / "Müller-Сервер-日本.dmp"
    path.write_bytes(dump.read_bytes())
    return path


def test_letters_that_the_terminal_can_show_are_shown(show, named):
    assert "Müller-Сервер-日本.dmp: kernel" in show(named)
    western = show(named, encoding="cp1252")
    assert "Müller-\\u0421" in western and "Сервер" not in western
    assert show(named, encoding="ascii").isascii()


def test_a_pipe_gets_escapes(named, capsys):
    main([str(named)])
    assert capsys.readouterr().out.isascii()


def test_no_escape_of_a_name_reaches_the_terminal(show, dump, tmp_path):
    path = tmp_path / "x\u202e\x9b2J.dmp"
    path.write_bytes(dump.read_bytes())
    text = show(path)
    for own in (BOLD, RED, ALARMING, PLAIN):
        text = text.replace(own, "")
    assert "x\\u202e\\x9b2J.dmp" in text
    assert not set(text) & set("\x1b\u202e\x9b")


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_every_width_shows_the_driver(show, dump, columns):
    text = show("used", dump, "--tag", "CM31", columns=columns)
    assert "Driver and use" in text and "nt: Reg" in text
    assert max(map(len, text.splitlines()[6:9])) <= columns


def test_a_batch_and_its_history_in_80_columns(show, dump, tmp_path):
    store = tmp_path / "fleet.sqlite"
    text = show("batch", dump, "--jobs", 1, "--store", store, "--host-from", "name", columns=80)
    table = text[text.index("Host  ") :].splitlines()
    assert "Driver" in table[0] and "pippo.sys" in table[2] and max(map(len, table[:3])) <= 80
    head, _, line = show("history", "Pipo", "--store", store, columns=80).splitlines()[:3]
    assert head.rstrip().endswith("Per hour") and line.rstrip().endswith("MB")


def test_the_verdict_on_a_batch_stands_out_first_and_last(show, dump):
    text = show("batch", dump, "--jobs", 1, lines=4)
    assert text.count(f"{ALARMING}Tag Pipo of the nonpaged pool, used by pippo.sys") == 2
    assert "\x1b" not in show("batch", dump, "--jobs", 1, NO_COLOR="1")


def test_members_of_a_group_have_the_colours_of_their_roles():
    roles = ((b"Mine", Role.CAUSE), (b"File", Role.OBJECT), (b"Well", Role.UNKNOWN))
    members = tuple(
        LockstepMember(PoolTag(tag), PoolKind.NONPAGED, 9, 1.0, 0.5, role, "a reason") for tag, role in roles
    )
    lines = group_lines(LockstepGroup(1, members), "grow alike", 100, Links(SnapshotSource("")))
    text = render_lines(lines, AnsiMarkup("utf-8"))
    assert f"{RED}cause: a reason{PLAIN}" in text and "\x1b[33mobject: a reason\x1b[0m" in text
    assert "unknown: a reason" in text and text.count("\x1b[") == 4


def test_wide_letters_take_two_columns_and_marks_none():
    rows = [["日本", "1"], ["Mu\u0308ller", "22"], ["host", "333"]]
    lines = format_table(("Host", "N"), rows, ("left", "right"), encoding="utf-8")
    assert lines == ["Host      N", "------  ---", "日本      1", "Mu\u0308ller   22", "host    333"]
    assert format_table(("Host", "N"), rows[:1], ("left", "right"))[2] == "\\u65e5\\u672c  1", "a pipe gets escapes"
    assert format_table(("Host", "N"), rows[:1], ("left", "right"), 6, encoding="utf-8")[2] == "日..."


def test_every_command_with_a_verdict_says_it_again(show, dump, tmp_path):
    logs = "dumps/samples/poolmon"
    for words in (["trend", logs], ["batch", dump, "--jobs", "1"], ["processes", dump], ["holders", "Proc", dump]):
        lines = show(*words, lines=4, NO_COLOR="1").splitlines()
        last = "".join(lines[len(lines) - lines[::-1].index("") :])
        assert "".join(lines).count(last) == 2 or last.startswith("Warning"), words


def test_a_misspelt_tag_of_objects_is_guessed(capsys, dump):
    main(["holders", "proc", str(dump)])
    assert "no block bears proc: did you mean Proc?" in capsys.readouterr().out


def test_a_table_gives_spare_columns_up_before_letters():
    rows = [["a" * 30, "1", "b" * 10], ["c", "22", "d"]]
    align = ("left", "right", "left")
    assert max(map(len, format_table(("Name", "N", "Driver"), rows, align))) == 46
    spared = format_table(("Name", "N", "Driver"), rows, align, 42, ("N",))
    assert spared[0].split() == ["Name", "Driver"] and spared[2].endswith("b" * 10)
    cut = format_table(("Name", "N", "Driver"), rows, align, 30, ("N",))
    assert cut[2] == "a" * 15 + "...  " + "b" * 10
