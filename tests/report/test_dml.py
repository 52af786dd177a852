"""The markup of WinDbg's command window: hostile names stay text, links run one command, pieces stay whole."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pykdext.model import PoolTag, SnapshotSource
from pykdext.model.names import find_engine_name
from pykdext.printable import make_printable
from pykdext.report.dml import MAX_MARKED, MAX_PIECE, Dml, iter_pieces
from pykdext.report.layout import format_table
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Mark, MarkedLine, emphasize, link_cells, link_words, render_lines
from tests.helpers.fakepykd_console import find_broken_markup, split_arguments, visible_text

DML = Dml()
SESSION = SnapshotSource("dump in the debugger", "", "target")
HOSTILE = ['<&>"', "</link>", '<link cmd="q">', "a&lt;b", "\x1b[2J\u202e", "a\nb", "\x00", "%s{}", "é"]

words = st.text(max_size=30) | st.sampled_from(HOSTILE)


def shown(markup):
    return visible_text([(markup, True)])


def commands(markup):
    return [html.unescape(found) for found in re.findall(r'<link cmd="([^"]*)">', markup)]


class TestDml:
    @given(words)
    def test_text_is_what_was_given_made_harmless(self, text):
        for markup in (DML.text(text), DML.strong(text), DML.link(text, "lm")):
            assert shown(markup) == make_printable(text, frozenset())
            assert not find_broken_markup([(markup, True)])
            assert markup.isascii() and markup.isprintable()

    @given(words)
    def test_commands_are_escaped_or_left_out(self, text):
        markup = DML.link("x", f"!echo {text}")
        assert shown(markup) == "x"
        assert not find_broken_markup([(markup, True)])
        assert commands(markup) in ([], [f"!echo {text}"])

    @pytest.mark.parametrize("command", ["lm;q", 'x "', "lm\nq", "lm\x07", "l\u202em", "x" * MAX_MARKED])
    def test_what_is_not_one_command_is_no_link(self, command):
        assert DML.link("x", command) == "x"

    def test_quotes_and_brackets_in_commands(self):
        markup = DML.link("x", '!py poolleak find <&> "C:\\a b\\x.dmp"')
        assert markup == ('<link cmd="!py poolleak find &lt;&amp;&gt; &quot;C:\\a b\\x.dmp&quot;">x</link>')
        assert commands(markup) == ['!py poolleak find <&> "C:\\a b\\x.dmp"']

    def test_own_commands_start_as_this_run_did(self):
        dml = Dml("!py -m pykdext")
        assert commands(dml.link("x", "!py poolleak find Pipo")) == ["!py -m pykdext find Pipo"]
        assert commands(dml.link("x", "lmvm pippo")) == ["lmvm pippo"]


class TestLines:
    @given(st.lists(words, max_size=5))
    def test_plain_text_has_one_line_for_each(self, lines):
        assert render_lines(lines, PLAIN).count("\n") == len(lines)
        assert render_lines(lines, DML).count("\n") == len(lines)

    @given(words, words)
    def test_marks_change_nothing_that_is_read(self, before, linked):
        lines = [MarkedLine(f"{before}{linked}!", (Mark(len(before), len(before + linked), "lm"),))]
        assert shown(render_lines(lines, DML)) == make_printable(before + linked, frozenset()) + "!\n"

    def test_words_are_linked_once_and_never_inside_of_a_mark(self):
        lines = link_words(["see pippo.sys", "pippo.sys"], "pippo.sys", "lmvm pippo")
        assert render_lines(lines, DML) == 'see <link cmd="lmvm pippo">pippo.sys</link>\npippo.sys\n'
        assert link_words(emphasize(["pippo.sys"]), "pippo.sys", "lmvm pippo") == emphasize(["pippo.sys"])
        assert link_words(["x"], "x", None) == link_words(["x"], "y", "lm") == ["x"]

    def test_cells_are_linked_without_their_padding(self):
        tags = ['<&>"', "Irp ", "    ", "a;b "]
        rows = [[tag, "1", "n"] for tag in tags]
        table = format_table(("Tag", "Diff", "Name"), rows, ("left", "right", "left"))
        links = Links(SESSION)
        lines = link_cells(table, 0, [links.tag(PoolTag(tag.encode())) for tag in tags])
        markup = render_lines(lines, DML)
        assert shown(markup) == render_lines(table, PLAIN)
        assert commands(markup) == [
            r"!py poolleak find \x3c\x26\x3e\x22",
            "!py poolleak find Irp",
            r"!py poolleak find a\x3bb",
        ]

    def test_a_name_cannot_break_its_table(self):
        table = format_table(("Name", "N"), [["a\nb\x1b", "1"], ["c", "2"]], ("left", "right"))
        assert len(table) == 4
        assert "a\\nb\\x1b" in table[2]

    def test_texts_of_long_rows_are_cut_and_numbers_stay(self):
        table = format_table(("Name", "N"), [["x" * 200, "1"]], ("left", "right"), 100)
        assert {len(line) for line in table[1:]} == {100}
        assert table[2].endswith("xxx...  1")


class TestFolding:
    @given(words, words, words, st.integers(min_value=1, max_value=40))
    def test_every_part_fits_and_nothing_is_lost(self, before, linked, after, width):
        start, end = len(before), len(before) + len(linked)
        marks = (Mark(start, end, "lm"),) if linked else ()
        lines = [MarkedLine(before + linked + after, marks), before]
        markup = render_lines(lines, DML, width)
        assert all(len(line) <= width for line in shown(markup).splitlines())
        assert shown(markup).replace("\n", "") == shown(render_lines(lines, DML)).replace("\n", "")
        assert not find_broken_markup([(markup, True)])
        parts = re.findall(r"<link [^>]*>(.*?)</link>", markup)
        assert html.unescape("".join(parts)) == make_printable(linked, frozenset())

    def test_plain_text_keeps_long_words_whole(self):
        assert render_lines(["x" * 200], PLAIN, 100) == "x" * 200 + "\n"
        assert render_lines(["x" * 200, ""], DML, 100) == "x" * 100 + "\n" + "x" * 100 + "\n\n"

    def test_a_table_without_rows_has_its_headers(self):
        assert format_table(("Name", "N"), [], ("left", "right")) == ["Name  N", "----  -"]


class TestLinks:
    @given(st.binary(min_size=4, max_size=4))
    @example(b'<&>"')
    @example(b"-abc")
    @example(b"    ")
    @example(b"\\x41")
    def test_a_tag_arrives_as_it_is(self, raw):
        tag = PoolTag(raw)
        command = Links(SESSION).tag(tag)
        assert commands(DML.link("x", command)) == [command]
        script, *arguments = split_arguments(command[len("!py ") :])
        assert (script, arguments[0], len(arguments)) == ("poolleak", "find", 2)
        assert not arguments[1].startswith("-")
        assert PoolTag.from_text(arguments[1]) == tag

    def test_another_source_is_named(self):
        links = Links(SnapshotSource("kernel bitmap dump", "C:\\a b\\x.dmp", "profile"))
        assert links.tag(PoolTag(b"Pipo")) == '!py poolleak find Pipo "C:\\a b\\x.dmp"'
        assert links.module("pippo.sys") is links.place(1) is links.block(1) is links.usage(PoolTag(b"Pipo")) is None

    def test_the_debuggers_own_commands(self):
        links = Links(SESSION)
        assert links.usage(PoolTag(b"Irp ")) == "!poolused 2 Irp "
        assert links.usage(PoolTag(b'<&>"')) is links.blocks(PoolTag(b"a b ")) is links.usage(PoolTag(b"    ")) is None
        assert links.place(0xFFFFF80000001010) == "ln fffff800`00001010"
        assert links.place(None) is None

    @pytest.mark.parametrize(
        ("file_name", "name"),
        [
            ("pippo.sys", "pippo"),
            ("ntoskrnl.exe", "nt"),
            ("NTKRPAMP.EXE", "nt"),
            ("a-b.c.sys", "a_b_c"),
            ('x;q".sys', "x_q_"),
            ("é.sys", "_"),
        ],
    )
    def test_names_of_the_engine(self, file_name, name):
        assert find_engine_name(file_name) == name


class TestPieces:
    @given(st.lists(st.sampled_from(["a", "b" * 3000, "<&>" * 900, "c" * 20000, "", "<"]), max_size=12), st.booleans())
    def test_pieces_are_short_and_whole(self, lines, linked):
        mark = (
            (lambda line: [MarkedLine(line, (Mark(0, min(4, len(line)), "lm"),))] if line else [line])
            if linked
            else list
        )
        lines = [item for line in lines for item in (mark(line) if linked else [line])]
        markup = render_lines(lines, DML)
        pieces = list(iter_pieces(markup, marked=True))
        assert "".join(pieces) == markup
        assert all(0 < len(piece) <= MAX_PIECE for piece in pieces)
        assert not find_broken_markup([(piece, True) for piece in pieces])

    def test_lines_stay_together(self):
        text = ("x" * 99 + "\n") * 1000
        pieces = list(iter_pieces(text, marked=False))
        assert "".join(pieces) == text
        assert all(piece.endswith("\n") and len(piece) == 16_000 for piece in pieces[:-1])

    def test_a_long_line_of_json(self):
        text = '["' + "<&" * 20_000 + '"]\n'
        pieces = list(iter_pieces(text, marked=False))
        assert "".join(pieces) == text and max(map(len, pieces)) <= MAX_PIECE


def test_a_column_that_had_no_room_is_not_linked():
    table = ["Tag   Bytes", "----  -----", "Pipo      1"]
    assert link_cells(table, 2, ["lmvm pippo"]) == table
    assert link_cells(table, 9, ["lmvm pippo"]) == table
