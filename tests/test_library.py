"""The library: the same answers as the command line's, lazily imported, and the README's chapter on it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import pykdext
from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.errors import TargetError
from pykdext.model import PoolTag
from tests.conftest import PROJECT

LOGS = PROJECT / "dumps" / "samples" / "poolmon"
DRIVERS = PROJECT / "dumps" / "drivers" / "images" / "x64"
CHAPTER = re.search(
    r"## From Python\n.*?```python\n(.*?)```.*?```text\n(.*?)```",
    (PROJECT / "README.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo", build=19041).save(path)
    return path


@pytest.fixture
def as_json(capsys):
    def answer(*words):
        main([*map(str, words), "--format", "json"])
        return json.loads(capsys.readouterr().out)

    return answer


def test_the_same_answers_as_the_command_line(dump, as_json, tmp_path):
    state = tmp_path / "state.json"
    assert main(["snapshot", str(dump), "-o", str(state)]) == 0
    assert pykdext.to_dict(pykdext.analyze(dump)) == as_json(dump)
    log = sorted(LOGS.iterdir())[0]
    assert pykdext.to_dict(pykdext.diff(log, dump)) == as_json("diff", log, dump)
    assert pykdext.to_dict(pykdext.trend(LOGS)) == as_json("trend", LOGS)
    found = pykdext.find(["Pgla", "Ctxr"], [DRIVERS])
    assert pykdext.to_dict(found) == as_json("find", "Pgla", "Ctxr", "--images", DRIVERS, "--jobs", 1)
    with pykdext.open(str(dump)) as source:
        assert pykdext.to_dict(source.snapshot) == json.loads(state.read_text())
        assert pykdext.to_dict(source.find("Pipo")) == as_json("find", "Pipo", dump)
        assert source.find(PoolTag(b"Pipo")).tags == source.find(["Pipo"]).tags
        assert pykdext.to_dict(source.blocks("Pipo", 3)) == as_json("blocks", "Pipo", dump, "--top", 3)
        assert pykdext.to_dict(source.holders("Toke")) == as_json("holders", "Toke", dump)
        assert pykdext.to_dict(source.processes(top=30)) == as_json("processes", dump)
        assert pykdext.to_dict(source.memory()) == as_json("memory", dump)
        assert source.analyze() == pykdext.analyze(dump)


def test_a_batch(dump, as_json):
    answer = pykdext.batch([dump], jobs=1)
    document, expected = pykdext.to_dict(answer), as_json("batch", dump, "--jobs", 1)
    assert document["dumps"] == expected["dumps"] and document["common"] == expected["common"]
    assert answer.summary.hosts == len(answer.rows) == 1


def test_errors_are_of_one_kind(dump, tmp_path):
    with pytest.raises(pykdext.PykdextError, match="found a folder"):
        pykdext.analyze(tmp_path)
    with pytest.raises(FileNotFoundError):
        pykdext.open(tmp_path / "absent.dmp")
    with pytest.raises(TypeError, match="expected an answer"):
        pykdext.to_dict({"schema": "poolleak.report/1"})
    with pykdext.open(dump) as source, pytest.raises(ValueError, match="Toolong"):
        source.blocks("Toolong")
    with pytest.raises(AttributeError, match="analyse"):
        pykdext.analyse


def test_the_import_is_lazy():
    code = (
        "import sys, pykdext\n"
        "loaded = [name for name in sys.modules if name.startswith('pykdext.')]\n"
        "assert not loaded and 'json' not in sys.modules, loaded\n"
        "assert set(pykdext.__all__) <= set(dir(pykdext))\n"
        "assert all(getattr(pykdext, name) is not None for name in pykdext.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_the_readmes_program_prints_what_it_shows():
    program, output = CHAPTER.groups()
    assert len(program.strip().splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output


def test_tags_may_be_bytes(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("Tag,Type,Diff,Bytes,Driver\nIrp,Nonp,9,900,pipo.sys\n")
    with pykdext.open(path) as source:
        for tag in ("Irp", b"Irp", b"Irp ", [b"Irp"], PoolTag(b"Irp ")):
            (found,) = source.find(tag).tags
            assert found.tag == PoolTag(b"Irp ")
        for wrong in (b"", b"longer", [1]):
            with pytest.raises(ValueError, match="tag"):
                source.find(wrong)


def test_a_closed_source_says_so(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("Tag,Type,Diff,Bytes\nIrp,Nonp,9,900\n")
    source = pykdext.open(path)
    source.close()
    source.close()
    assert source.snapshot.tags
    for ask in (
        source.analyze,
        source.memory,
        source.processes,
        lambda: source.find("Irp"),
        lambda: source.blocks("Irp"),
    ):
        with pytest.raises(TargetError, match=r"log\.csv: found a closed source, expected an open one"):
            ask()


def test_a_small_dump_is_opened_for_its_processes(evidence):
    path = evidence / "dumps" / "triage_x64.dmp"
    with pytest.raises(pykdext.PykdextError, match="no pool tag tables"):
        pykdext.open(path)
    with pykdext.open(path, needs_tags=False) as source:
        (system,) = source.processes().processes
        assert (system.pid, system.handles, source.snapshot.tags) == (4, 225, ())
        with pytest.raises(pykdext.PykdextError, match="no pool tag tables"):
            source.analyze()
