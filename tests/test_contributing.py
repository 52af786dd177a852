"""What CONTRIBUTING.md promises: one place to add each thing at. Each is added here from outside, no file is edited."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass

import pytest

from dumps.forge import forge
from pykdext.attribution.owners import register_attributor
from pykdext.cli.answers import FORMS, TABLE, Command, Form, Outcome, Part, list_forms, open_source
from pykdext.cli.arguments import SourceOptions, add_format_option, add_output_option, add_shared_options, add_source
from pykdext.cli.commands import COMMANDS, Listed
from pykdext.cli.main import main
from pykdext.model import (
    UNUSED,
    Confidence,
    Evidence,
    EvidenceKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    TagUsage,
)
from pykdext.records import logs
from tests.conftest import PROJECT

LOG = PROJECT / "dumps" / "samples" / "poolmon" / "poolmon-2024-11-10_1600.txt"


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo", build=19041).save(path)
    return str(path)


@pytest.fixture
def run(capsys):
    def type_words(*words):
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return type_words


# A command: a module that holds COMMAND (here this one), and a line of COMMANDS.


@dataclass(frozen=True)
class LargestOptions(SourceOptions):
    count: int


def declare(parser: argparse.ArgumentParser):
    add_source(parser)
    parser.add_argument("--count", type=int, default=1, help="so many tags")
    add_format_option(parser, list_forms(TABLE))
    add_output_option(parser)
    add_shared_options(parser)


def find_largest(options: LargestOptions, call):
    with open_source(options, call) as source:
        rows = sorted(source.snapshot.tags, key=lambda row: -(row.nonpaged.bytes or 0))[: options.count]
    names = [row.tag.text for row in rows]
    return Outcome(
        text=lambda look: "".join(f"{look.markup.strong(name)}\n" for name in names),
        document=lambda: json.dumps({"schema": "mine.largest/1", "tags": names}),
        rows=lambda: "".join(f"{name}\r\n" for name in ["tag", *names]),
    )


COMMAND = Command(declare, LargestOptions, find_largest, examples=("poolleak largest MEMORY.DMP",))


@pytest.fixture
def largest(monkeypatch):
    monkeypatch.setitem(COMMANDS, "largest", Listed("the tag that holds most", __name__))


@pytest.mark.usefixtures("largest")
class TestCommand:
    def test_it_answers_in_every_form(self, run, dump, tmp_path):
        assert run("largest", dump) == (0, "Pipo\n", "")
        assert json.loads(run("largest", dump, "--format", "json")[1])["tags"] == ["Pipo"]
        path = tmp_path / "largest.csv"
        assert run("largest", dump, "--count", 2, "--format", "csv", "-o", path) == (0, "", "")
        assert path.read_bytes().splitlines()[:2] == [b"\xef\xbb\xbftag", b"Pipo"]

    def test_help_knows_it(self, capsys):
        for words, shown in ((["--help"], "the tag that holds most"), (["largest", "--help"], "so many tags")):
            with pytest.raises(SystemExit):
                main(words)
            assert shown in capsys.readouterr().out

    def test_its_errors_are_one_line(self, run, tmp_path):
        status, out, err = run("largest", tmp_path / "absent.dmp")
        assert (status, out, err.count("\n")) == (3, "", 1)


# A form of output: a line of FORMS; all commands with the part that it is made from offer it.


def render_yaml(outcome, _look):
    document = json.loads("".join(outcome.make(Part.DOCUMENT)))
    for key, value in document.items():  # JSON is YAML
        yield f"{key}: {json.dumps(value)}\n"


@pytest.fixture
def yaml(monkeypatch):
    monkeypatch.setitem(FORMS, "yaml", Form(Part.DOCUMENT, render_yaml))


@pytest.mark.usefixtures("yaml", "largest")
@pytest.mark.parametrize(
    ("words", "schema"),
    [
        (["{dump}"], "poolleak.report/1"),
        (["used", "{dump}"], "poolleak.snapshot/1"),
        (["find", "Pipo", "{dump}"], "poolleak.owners/1"),
        (["find", "Pipo", "--explain"], "poolleak.explanation/1"),
        (["blocks", "Pipo", "{dump}"], "poolleak.blocks/1"),
        (["diff", "{log}", "{dump}"], "poolleak.diff/1"),
        (["trend", "{log}"], "poolleak.trend/1"),
        (["batch", "{dump}", "--jobs", "1"], "poolleak.batch/1"),
        (["largest", "{dump}"], "mine.largest/1"),
    ],
    ids=lambda value: None if isinstance(value, list) else value,
)
def test_a_form_of_output(run, dump, tmp_path, words, schema):
    path = tmp_path / "answer.yaml"
    typed = [word.format(dump=dump, log=LOG) for word in words]
    assert run(*typed, "--format", "yaml", "-o", path) == (0, "", "")
    answer = dict(line.split(": ", 1) for line in path.read_text().splitlines())
    assert json.loads(answer["schema"]) == schema
    as_json = tmp_path / "answer.json"
    run(*typed, "--format", "json", "-o", as_json)
    assert sorted(answer) == sorted(json.loads(as_json.read_text()))


# A format of records: a line of PARSERS.

ROW = re.compile(r"(....)~(\d+)~(\d+)")


def parse_tildes(file):
    rows = tuple(
        TagUsage(PoolTag.from_text(tag), PoolUsage(int(blocks), 0, int(blocks), int(size)), UNUSED)
        for tag, size, blocks in ROW.findall(file.text)
    )
    return (PoolSnapshot(SnapshotSource("tildes", file.path), rows),) if rows else ()


def test_a_format_of_records(run, dump, tmp_path, monkeypatch):
    path = tmp_path / "tildes.txt"
    path.write_text("Irp ~4096~16\nPipo~432000~1000\n")
    assert run("used", path)[0] == 3
    monkeypatch.setattr(logs, "PARSERS", (parse_tildes, *logs.PARSERS))
    status, out, _ = run("used", path, "--format", "json")
    document = json.loads(out)
    assert (status, document["source"]["kind"]) == (0, "tildes")
    assert [(row["tag"], row["nonpaged"]["bytes"]) for row in document["tags"]] == [("Pipo", 432_000), ("Irp ", 4096)]
    _, out, _ = run("diff", path, dump, "--format", "json", "--tag", "Pipo")
    assert json.loads(out)["deltas"][0]["bytes"] == 2_078_933_040 - 432_000
    assert run("used", LOG)[0] == 0  # the others are known as before


# A kind of evidence: an attributor, registered.


class Hearsay:
    name = "hearsay"

    def __init__(self, _target, images):
        self.count = len(images)

    def evidence(self, tag):
        detail = f"heard of {tag.text} among {self.count} images"
        yield Evidence(tag, "gossip.sys", EvidenceKind.OTHER, Confidence.LIKELY, detail)


def test_a_kind_of_evidence(run, dump):
    assert "gossip.sys" not in run("find", "Look", dump)[1]
    with register_attributor(Hearsay):
        _, text, _ = run("find", "Look", dump)
        _, out, _ = run("find", "Look", dump, "--format", "json")
        _, rows, _ = run("find", "Look", dump, "--format", "csv")
        _, verdict, _ = run(dump)
    assert "gossip.sys, likely" in " ".join(text.split())
    owner = next(owner for owner in json.loads(out)["tags"][0]["owners"] if owner["module"] == "gossip.sys")
    assert [item["kind"] for item in owner["evidence"]] == ["other"]
    assert "heard of Look among" in rows
    assert "pippo.sys (proven)" in " ".join(verdict.split())  # what is surer stays first


def test_the_map_is_of_what_is_there():
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (PROJECT / "pykdext").iterdir() if path.is_dir() and path.name != "__pycache__"}
    named = set(re.findall(r"(?m)`(\w+)/`", text.partition("## Adding")[0]))
    assert rooms <= named | {"data"}
    for path in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text):
        assert any((folder / path).exists() for folder in (PROJECT, PROJECT / "pykdext")) or path in named_inside(), (
            path
        )


def test_what_is_pointed_at_is_there():
    rows = re.findall(r"`(\w+)` in `([\w/]+\.py)`", (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(rows) >= 4
    for name, path in rows:
        assert re.search(rf"(?m)^ *(?:def|class) {name}\b", (PROJECT / "pykdext" / path).read_text(encoding="utf-8"))


def named_inside():
    """Rooms that the map names within their room."""
    return {f"{path.name}/" for path in (PROJECT / "pykdext").rglob("*") if path.is_dir()}
