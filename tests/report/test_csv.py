"""Tables as CSV: what a spreadsheet or a script reads is what JSON says."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.model import PoolKind, PoolTag, PoolUsage, UsageRow
from pykdext.records.logs import load_log
from pykdext.report.csvtext import iter_csv, render_usages_csv
from tests.conftest import PROJECT

LOGS = PROJECT / "dumps" / "samples" / "poolmon"
BEFORE, AFTER = LOGS / "poolmon-2024-11-10_1600.txt", LOGS / "poolmon-2024-11-12_0300.txt"
POOLS = [pool.value for pool in PoolKind]


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo", build=19041).save(path)
    return path


@pytest.fixture
def run(capsys):
    def answer(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return answer


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def cell_of(value):
    """A value of JSON as its cell."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "; ".join(value)
    return "" if value is None else str(value)


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (["analyze", "{dump}"], "suspects"),
        (["diff", str(BEFORE), str(AFTER)], "deltas"),
        (["trend", str(LOGS)], "trends"),
    ],
)
def test_cells_are_what_json_says(run, dump, words, listed):
    words = [word.format(dump=dump) for word in words]
    rows = rows_of(run(*words, "--format", "csv"))
    documents = json.loads(run(*words, "--format", "json"))[listed]
    assert len(rows) == len(documents) > 0
    for row, document in zip(rows, documents):
        common = set(row) & set(document)
        assert {"tag", "hex", "pool"} < common and len(common) >= 8
        assert {name: row[name] for name in common} == {name: cell_of(document[name]) for name in common}


def test_the_suspect_has_its_owner(run, dump):
    (row,) = rows_of(run(dump, "--format", "csv"))
    assert (row["tag"], row["module"], row["confidence"], row["part_of_windows"]) == (
        "Pipo",
        "pippo.sys",
        "proven",
        "false",
    )


@pytest.mark.parametrize("options", [[], ["--tag", "Pip?"], ["--pool", "paged", "--top", "3"]])
def test_used_has_a_line_for_each_tag_and_pool(run, dump, options):
    rows = rows_of(run("used", dump, *options, "--format", "csv"))
    tags = {tag["hex"]: tag for tag in json.loads(run("used", dump, "--format", "json"))["tags"]}
    assert rows
    for row in rows:
        usage = tags[row["hex"]][row["pool"]]
        assert {name: row[name] for name in usage} == {name: cell_of(value) for name, value in usage.items()}


def test_the_other_view_has_a_line_for_each_tag(run, dump):
    rows = rows_of(run("used", dump, "--view", "poolused", "--format", "csv"))
    documents = json.loads(run("used", dump, "--format", "json"))["tags"]
    assert [row["hex"] for row in rows] == [tag["hex"] for tag in documents]
    for row, tag in zip(rows, documents):
        for pool in POOLS:
            assert row[f"{pool}_bytes"] == cell_of(tag[pool]["bytes"])


def test_find_has_a_line_for_each_reason(run, dump):
    rows = rows_of(run("find", "Pipo", "Zzzz", dump, "--format", "csv"))
    pipo, zzzz = json.loads(run("find", "Pipo", "Zzzz", dump, "--format", "json"))["tags"]
    reasons = [(owner["module"], item["detail"]) for owner in pipo["owners"] for item in owner["evidence"]]
    assert [(row["module"], row["detail"]) for row in rows if row["tag"] == "Pipo"] == reasons
    assert len(reasons) > 1 and zzzz["owners"] == []
    assert [row["module"] for row in rows if row["tag"] == "Zzzz"] == [""]


def test_the_entries_of_tag_lists(run):
    rows = rows_of(run("find", "Toke", "Zz\\x01", "--explain", "--format", "csv"))
    assert [(row["tag"], row["won"]) for row in rows[:1]] == [("Toke", "true")]
    assert rows[-1]["tag"] == "Zz\\x01 " and rows[-1]["pattern"] == ""


def test_blocks_have_addresses_that_keep_all_digits(run, dump):
    rows = rows_of(run("blocks", "Pipo", dump, "--format", "csv"))
    blocks = json.loads(run("blocks", "Pipo", dump, "--format", "json"))["blocks"]
    assert [int(row["address"], 16) for row in rows] == [block["address"] for block in blocks]
    assert all(row["address"].startswith("0x") for row in rows)


def test_text_that_looks_like_a_formula_is_text():
    usage = PoolUsage(1, 0, 1, 64)
    tags = (b"=1+1", b"+abc", b"-abc", b"@SUM", b'a",\n', b"abc ")
    rows = rows_of(render_usages_csv([UsageRow(PoolTag(raw), PoolKind.PAGED, usage) for raw in tags]))
    assert [row["tag"] for row in rows] == ["'=1+1", "'+abc", "'-abc", "'@SUM", 'a",\\x0a', "abc "]
    assert [bytes.fromhex(row["hex"]) for row in rows] == list(tags)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n=", "\uff1d"])
def test_names_of_every_column_are_text_and_numbers_stay_numbers(start):
    """Whatever the column: a tag, a host, a path, a driver, alone or the first of several."""
    columns = ("tag", "host", "path", "modules", "bytes")
    name = f"{start}cmd|' /C calc'!A0"
    values = {"tag": name, "host": name, "path": name, "modules": [name, "b.sys"], "bytes": -7}
    (row,) = rows_of("".join(iter_csv(columns, [values])))
    assert row.pop("bytes") == "-7"
    for cell in row.values():
        assert cell[0] in "'\\" and "calc" in cell, cell


def test_numbers_below_zero_stay_numbers():
    assert "".join(iter_csv(["bytes"], [{"bytes": -5}, {"bytes": -0.5}, {"bytes": None}])) == (
        'bytes\r\n-5\r\n-0.5\r\n""\r\n'
    )


def test_hidden_and_half_characters_are_shown():
    text = "".join(iter_csv(["name"], [{"name": "a\u202eb\x1b[2J\ud800\r\nc"}, {"name": "Zürich"}]))
    assert text.encode("utf-8").decode("utf-8").split("\r\n") == [
        "name",
        "a\\u202eb\\x1b[2J\\ud800\\r\\nc",
        "Zürich",
        "",
    ]


def test_a_file_and_a_pipe_get_the_same_bytes(dump, tmp_path):
    path = tmp_path / "used.csv"
    command = [sys.executable, "-m", "pykdext", "used", str(dump), "--format", "csv"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    piped = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True, env=environment).stdout
    subprocess.run([*command, "-o", str(path)], cwd=PROJECT, check=True)
    assert path.read_bytes() == b"\xef\xbb\xbf" + piped
    assert piped.count(b"\r\n") == piped.count(b"\n") > 100


def test_what_was_written_is_a_source_again(run, dump, tmp_path):
    path = tmp_path / "used.csv"
    run("used", dump, "--format", "csv", "-o", path)
    (state,) = load_log(str(path))
    tags = {row["hex"]: row for row in json.loads(run("used", dump, "--format", "json"))["tags"]}
    assert len(state.tags) == len(tags)
    for row in state.tags:
        for pool in PoolKind:
            assert row.usage(pool).bytes == tags[row.tag.hex][pool.value]["bytes"]


def test_a_file_begins_with_the_mark_by_which_spreadsheets_know_its_letters(dump, tmp_path, run):
    path = tmp_path / "used.csv"
    printed = run("used", dump, "--format", "csv")
    run("used", dump, "--format", "csv", "-o", path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbftag,")
    assert rows_of(path.read_text(encoding="utf-8-sig")) == rows_of(printed)
    again = run("used", path, "--format", "csv")
    assert [row["tag"] for row in rows_of(again)] == [row["tag"] for row in rows_of(printed)]
