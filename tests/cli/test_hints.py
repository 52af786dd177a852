"""What is said of words that are nearly right, and of files that are nearly whole."""

from __future__ import annotations

import gzip
import json
import lzma

import pytest

from pykdext.cli.main import main

ROWS = "Tag,Type,Allocs,Frees,Diff,Bytes\nPipo,Nonp,100,10,90,9000\nIrp,Nonp,50,10,40,4000\n"


def run(capsys, *words):
    status = main([str(word) for word in words])
    shown = capsys.readouterr()
    return status, " ".join(shown.out.split()), " ".join(shown.err.split())


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(ROWS)
    return path


@pytest.mark.parametrize("words", [["hlep"], ["help", "hlep"], ["hepl"], ["helpp"]])
def test_help_is_guessed_as_commands_are(capsys, words):
    with pytest.raises(SystemExit):
        main(words)
    assert "did you mean help?" in capsys.readouterr().err


@pytest.mark.parametrize(("pattern", "tag"), [("pipo", "Pipo"), ("PIP*", "Pipo"), ("irp", "Irp")])
def test_a_tag_in_other_case_is_guessed(capsys, log, pattern, tag):
    for words in (["used", log], ["used", log, "--view", "poolused"], ["diff", log, log], ["trend", log, log]):
        shown = run(capsys, *words, "--tag", pattern)[1]
        assert f"--tag {pattern} names no tag that is listed: did you mean {tag}?" in shown
    document = json.loads(run(capsys, "used", log, "--tag", pattern, "--format", "json")[1])
    assert any("did you mean" in warning for warning in document["warnings"])


def test_a_tag_that_is_listed_or_like_none_is_not_guessed(capsys, log):
    assert "names no tag" not in run(capsys, "used", log, "--tag", "Pipo", "--tag", "I*")[1]
    shown = run(capsys, "used", log, "--tag", "Zzzz")[1]
    assert "--tag Zzzz names no tag that is listed" in shown
    assert "did you mean" not in shown


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_packed_file_of_which_nothing_can_be_read_is_damaged_and_not_empty(tmp_path, capsys, pack):
    path = tmp_path / "log.csv.packed"
    data = bytearray(pack(ROWS.encode()))
    data[12:40] = b"\xff" * 28
    path.write_bytes(data)
    status, _, error = run(capsys, path)
    assert status == 3
    assert "empty" not in error
    assert "damaged" in error


def test_a_snapshot_without_a_field_is_refused_by_the_name_of_the_field(tmp_path, capsys, log):
    whole = tmp_path / "whole.json"
    assert run(capsys, "snapshot", log, "-o", whole)[0] == 0
    document = json.loads(whole.read_text())
    refused = set()
    for field in document:
        path = tmp_path / "part.json"
        path.write_text(json.dumps({name: value for name, value in document.items() if name != field}))
        _, _, error = run(capsys, "used", path)
        assert "Error" not in error
        if f"found no field '{field}', expected the fields of poolleak.snapshot/1" in error:
            refused.add(field)
    assert {"os", "source", "tags", "coverage"} <= refused
