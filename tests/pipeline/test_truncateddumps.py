"""A dump that is cut short is read in part, though its tag tables are whole: no status says that all was read."""

from __future__ import annotations

import json
import random

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.fleet.worker import analyze_dump
from pykdext.model.fleet import DumpStatus, Task
from pykdext.pipeline.sources import open_source

PAGE = 0x1000


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dumps") / "whole.dmp"
    forge("pipo", processors=4).save(path)
    return path


def cut(dump, folder, pages):
    data = dump.read_bytes()
    path = folder / "cut.dmp"
    path.write_bytes(data[: len(data) - pages * PAGE])
    return path


@pytest.mark.parametrize("pages", [1, random.Random(7).randrange(2, 30)])
def test_a_dump_that_is_cut_short_is_partial(pages, dump, tmp_path, capsys):
    path = cut(dump, tmp_path, pages)
    with open_source(str(path)) as source:
        assert source.kernel.target.facts.lost_pages == pages and source.snapshot.coverage.is_complete
        assert not source.is_whole
    for words in (["analyze", path], ["used", path], ["find", "Pipo", path], ["snapshot", path, "-o", tmp_path / "a"]):
        assert main(list(map(str, words))) == 1, words
    assert "truncated" in capsys.readouterr().err  # a state that is kept says so on the screen
    document = json.loads((tmp_path / "a").read_text())
    assert any("truncated" in warning for warning in document["warnings"])


@pytest.mark.parametrize(("pages", "status"), [(0, DumpStatus.DONE), (1, DumpStatus.PARTIAL)])
def test_a_worker_tells_a_dump_that_is_cut_short(pages, status, dump, tmp_path):
    path = str(cut(dump, tmp_path, pages))
    answer = analyze_dump(Task(path, 60.0))
    assert answer.status == status.value
    assert any("truncated" in line for line in answer.report["warnings"]) is (pages > 0)


def test_a_whole_dump_is_done(dump, tmp_path, capsys):
    for words in (["analyze", dump], ["used", dump], ["find", "Pipo", dump], ["snapshot", dump, "-o", tmp_path / "a"]):
        assert main(list(map(str, words))) == 0, words
    assert capsys.readouterr().err == ""
