"""``find --explain``: which entry of the tag lists wins, and why."""

from __future__ import annotations

import json

import pytest

from dumps.forge import forge
from pykdext.cli.main import main

LIST = """\
rem pooltag.txt
Ab?? - two.sys - two letters given
Abc? - three.sys - three letters given
A*   - star.sys - any end
Abcd - exact.sys - the tag itself
Abcd - later.sys - a second entry
"""


@pytest.fixture
def pooltags(tmp_path):
    path = tmp_path / "pooltag.txt"
    path.write_text(LIST)
    return str(path)


def explain(capsys, *words):
    status = main(["find", "--explain", *words])
    captured = capsys.readouterr()
    assert not captured.err
    return status, captured.out


def test_every_matching_entry_is_ranked(pooltags, capsys):
    status, out = explain(capsys, "Abcd", "--format", "json", "--pooltags", pooltags)
    assert status == 0
    document = json.loads(out)
    assert document["schema"] == "poolleak.explanation/1"
    (tag,) = document["tags"]
    assert (tag["tag"], tag["hex"]) == ("Abcd", "41626364")
    found = [(item["module"], item["won"], item["source"]) for item in tag["matches"] if item["list"] == "pooltag.txt"]
    assert found == [
        ("exact.sys", True, "pooltag.txt:5"),
        ("later.sys", False, "pooltag.txt:6"),
        ("three.sys", False, "pooltag.txt:3"),
        ("two.sys", False, "pooltag.txt:2"),
        ("star.sys", False, "pooltag.txt:4"),
    ]
    assert {item["name"]: item["entries"] for item in tag["lists"]}["pooltag.txt"] == 5


@pytest.mark.parametrize(
    ("tag", "module", "why"),
    [
        ("Abcx", "three.sys", "3 of 4 characters"),
        ("Abxx", "two.sys", "2 of 4"),
        ("Axxx", "star.sys", "begins with 'A'"),
    ],
)
def test_the_winner_is_told_with_its_rule(tag, module, why, pooltags, capsys):
    _, out = explain(capsys, tag, "--pooltags", pooltags)
    (won,) = [line for line in out.splitlines() if line.strip().startswith("won")]
    assert module in won
    assert why in won
    assert "wins over one with ?" in " ".join(out.split())


def test_the_users_list_is_believed_before_the_built_in_one(tmp_path, capsys):
    path = tmp_path / "mine.txt"
    path.write_text("Irp* - mine.sys - my own IRPs\n")
    _, out = explain(capsys, "Irp", "--pooltags", str(path))
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("won", "behind"))]
    assert [row[2] for row in rows] == ["mine.sys", "nt"]


def test_a_tag_in_no_list(pooltags, capsys):
    status, out = explain(capsys, "Zzzz", "--pooltags", pooltags)
    assert status == 0
    assert "none of its 5 entries matches" in out
    assert "wins" not in out


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo", build=19041).save(path)
    return str(path)


@pytest.mark.parametrize("typed", ["pipo", "PIPO", "opiP", " irp", "IRP"])
def test_a_misspelt_tag_is_guessed(dump, capsys, typed):
    meant = "Irp" if "irp" in typed.lower() else "Pipo"
    for command in ("find", "blocks"):
        main([command, typed, dump])
        assert f"did you mean {meant}" in " ".join(capsys.readouterr().out.split()), command


def test_a_right_tag_is_not_guessed_at_and_says_what_it_holds(dump, capsys):
    assert main(["find", "Pipo", "Zzzz", dump]) == 0
    out = capsys.readouterr().out
    assert "did you mean" not in out
    assert out.count("   Holds: ") == 1
    assert "   Holds: nonpaged 2,078,933,040 bytes in 4,812,345 blocks\n" in out
