"""The types of arguments: what they take, and what they say of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.cli.arguments import MAX_WIDTH, MIN_WIDTH, iter_typed_paths, parse_positive, parse_width, read_options
from pykdext.cli.commands import COMMANDS
from pykdext.cli.main import main
from pykdext.cli.parsing import build_command_parser, load_command


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["used", "x", "--top", "x"], "--top: found 'x', expected 1 or more"),
        (["used", "x", "--top", "0"], "--top: found '0', expected 1 or more"),
        (["blocks", "Pipo", "x", "--top", "1.5"], "--top: found '1.5', expected 1 or more"),
        (["x", "--width", "abc"], "--width: found 'abc', expected 80 to 200"),
        (["x", "--width", "7"], "--width: found '7', expected 80 to 200"),
        (["find", "Pipo", "--jobs", "-1"], "--jobs: found '-1', expected 1 or more"),
        (["trend", "x", "--every", "soon"], "--every: found 'soon', expected a time such as 90s, 15m, 1h"),
        (["blocks", "Toolong", "x"], "TAG: "),
        (["diff", "a", "b", "--sort", "size"], "--sort: found 'size', expected one of bytes, "),
    ],
)
def test_what_was_found_and_what_was_expected(words, answer, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert answer in " ".join(capsys.readouterr().err.split())


@given(st.integers())
def test_counts_and_widths_are_bounded(number):
    for parse, low, high in ((parse_positive, 1, None), (parse_width, MIN_WIDTH, MAX_WIDTH)):
        if number >= low and (high is None or number <= high):
            assert parse(str(number)) == number
        else:
            with pytest.raises(Exception, match=f"found '{number}'"):
                parse(str(number))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_reads_its_words_into_a_value(name):
    command = load_command(name)
    _, *words = command.examples[0].partition(">")[0].split()  # what stands behind it is the shell's
    own = words[1:] if words[0] == name else words
    options = read_options(command.options, build_command_parser(name).parse_words(own))
    assert type(options) is command.options
    assert hash(options) == hash(read_options(command.options, build_command_parser(name).parse_words(own)))
    with pytest.raises(AttributeError):
        options.width = 100


def test_typed_paths_are_the_commands_own_first():
    words = ["a.dmp", "logs", "-o", "out.json", "--store", "fleet.sqlite", "--pooltags", "pooltag.txt"]
    options = read_options(load_command("batch").options, build_command_parser("batch").parse_words(words))
    assert list(iter_typed_paths(options)) == ["fleet.sqlite", "a.dmp", "logs", "out.json", "pooltag.txt"]
