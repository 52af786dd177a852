"""What ``docs/security.md`` promises: each of its sentences names the test that holds it."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dumps.forge import forge
from tests.conftest import PROJECT
from tests.pdbs import read_pdb, restamp

CHAPTER = PROJECT / "docs" / "security.md"
DRIVERS = PROJECT / "dumps" / "drivers" / "images" / "x64"
LOG = sorted((PROJECT / "dumps" / "samples" / "poolmon").iterdir())[0]

_WATCHED = """
import json, os, sys
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        seen.append((event, repr(arguments[1:] if event != "socket.getaddrinfo" else arguments)))
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "pickle.find_class",
                   "ctypes.dlopen"):
        seen.append((event, repr(arguments)[:300]))
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1], arguments[2] or 0
        if (mode and set(str(mode)) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(("write", os.path.abspath(os.fsdecode(arguments[0]))))
        seen.append(("open", os.fsdecode(arguments[0])))
    elif event in ("os.rename", "os.mkdir", "os.symlink", "os.link"):
        seen.append(("write", os.path.abspath(os.fsdecode(arguments[1 if event == "os.rename" else 0]))))
from pykdext.cli.main import main
sys.addaudithook(watch)
answers = []
for words in json.load(sys.stdin):
    del seen[:]
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    modules = [name for name in ("distributed", "dask", "fsspec") if name in sys.modules]
    answers.append((status, list(seen), modules))
with open(sys.argv[1], "w") as answer:
    json.dump(answers, answer)
"""


def watch(commands, folder, answer, **environment):
    """Commands in one process that notes what it asks of the system: of each its status, notes, and certain modules."""
    surroundings = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    surroundings.pop("_NT_SYMBOL_PATH", None)
    words = json.dumps([list(map(str, command)) for command in commands]).encode()
    command = [sys.executable, "-c", _WATCHED, str(answer)]
    done = subprocess.run(command, input=words, cwd=folder, env=surroundings, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr, done.stderr[-800:]
    return [
        (status, [tuple(note) for note in seen], modules) for status, seen, modules in json.loads(answer.read_text())
    ]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A dump whose drivers name servers, folders and devices as the places of their symbols, and texts like it."""
    folder = tmp_path_factory.mktemp("hostile")
    machine = forge("pipo", build=19041, known_kernel=False)
    names = itertools.cycle((b"..\\..\\..\\evil.pdb\0", b"../../evil.pdb\0", b"\\\\127.0.0.1\\x\\e.pdb\0"))
    for _, base, size, _ in machine.truth.modules:
        data = _read(machine, base, size)
        for found in re.finditer(rb"RSDS.{20}", data, re.DOTALL):
            machine.write_virtual(base + found.end(), next(names))
    machine.save(folder / "x.dmp")
    machine.save(folder / "x.dmp.gz")
    text = LOG.read_bytes().replace(b"Pipo", b"http") + b"\n http://127.0.0.1:9/ \\\\127.0.0.1\\share\\x\n"
    (folder / "x.txt").write_bytes(text)
    return folder


def _read(machine, base, size):
    pieces = []
    for va in range(base, base + size, 4096):
        try:
            pieces.append(machine.read_virtual(va, 4096))
        except ValueError:
            pieces.append(bytes(4096))
    return b"".join(pieces)


COMMANDS = (
    ("analyze", "x.dmp"),
    ("analyze", "x.dmp.gz"),
    ("used", "x.txt"),
    ("find", "Pipo", "x.dmp"),
    ("blocks", "Pipo", "x.dmp"),
    ("diff", "x.txt", "x.dmp"),
    ("trend", "x.txt", "x.dmp", "--mixed"),
    ("find", "Pipo", "--images", str(DRIVERS / "pippo.sys"), "--jobs", "1"),
    ("batch", "x.dmp", "--jobs", "1"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the commands may write: the output, the cache, and temporary files."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("out", "cache", "tmp"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def watched(hostile, place):
    """Every command, with its answer on the screen and in a file."""
    before = sorted(hostile.rglob("*"))
    commands = [(*words, *more) for words in COMMANDS for more in ((), ("-o", place / "out" / "report"))]
    surroundings = {"POOLLEAK_CACHE": str(place / "cache"), "TMPDIR": str(place / "tmp")}
    answers = watch(commands, hostile, hostile.parent / f"{hostile.name}.json", **surroundings)
    assert all(status in (0, 1) for status, _, _ in answers)
    assert sorted(hostile.rglob("*")) == before
    return [(command, seen, modules) for command, (_, seen, modules) in zip(commands, answers)]


def test_no_file_makes_the_tool_talk_to_anybody(watched):
    for command, seen, modules in watched:
        assert [note for note in seen if note[0].startswith("socket")] == [], command
        assert "fsspec" not in modules, command


def test_only_the_server_that_the_symbol_path_names_is_asked(hostile, tmp_path):
    path = f"srv*{tmp_path / 'cache'}*http://127.0.0.1:9"
    ((_, seen, _),) = watch([("used", "x.dmp", "--symbols", path)], hostile, tmp_path / "answer", POOLLEAK_CACHE="off")
    asked = [note for note in seen if note[0] in ("socket.connect", "socket.getaddrinfo")]
    assert asked
    assert all("127.0.0.1" in note[1] and "9" in note[1] for note in asked)


def test_nothing_of_a_file_is_run(watched):
    started = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "pickle.find_class")
    for command, seen, _ in watched:
        if command[0] != "batch":
            assert [note for note in seen if note[0] in started] == [], command
        loaded = [note[1] for note in seen if note[0] == "ctypes.dlopen"]
        assert all("capstone" in name or name in ("(None,)", "('',)") for name in loaded), loaded


def test_a_batch_starts_only_itself(watched):
    started = [note[1] for command, seen, _ in watched if command[0] == "batch" for note in seen if note[0] in _STARTS]
    assert started and all(sys.executable in line and "worker.py" in line for line in started)


_STARTS = ("subprocess.Popen", "os.exec", "os.system")


def test_files_are_written_only_where_it_was_said(watched, place):
    for command, seen, _ in watched:
        written = {note[1] for note in seen if note[0] == "write"} - {os.devnull}
        outside = [path for path in written if place not in Path(path).parents]
        assert outside == [], command
        if "-o" not in command:
            assert not [path for path in written if place / "out" in Path(path).parents], command
    assert list((place / "tmp").iterdir()) == []
    assert [path.name for path in (place / "out").iterdir()] == ["report"]


def test_names_in_a_file_lead_nowhere(hostile, tmp_path):
    """The PDB would be found if the name that the image gives were followed."""
    machine = forge("pipo", build=19041, known_kernel=False)
    pdb = restamp(read_pdb("10.0.19041.804"), machine.truth.kernel_guid)
    store = tmp_path / "a" / "b" / "store"
    store.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        (folder / "evil.pdb").write_bytes(pdb)
    words = ("used", "x.dmp", "--symbols", store)
    ((_, seen, _),) = watch([words], hostile, tmp_path / "answer", POOLLEAK_CACHE="off")
    opened = [os.path.normpath(note[1]) for note in seen if note[0] == "open"]
    assert [path for path in opened if path.endswith("evil.pdb") and store not in Path(path).parents] == []


def test_dask_is_imported_only_for_a_scheduler(watched):
    for command, _, modules in watched:
        assert "distributed" not in modules and "dask" not in modules, command


def test_every_sentence_names_a_test_that_there_is():
    here = Path(__file__).read_text(encoding="utf-8")
    sentences = [line for line in CHAPTER.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    assert len(sentences) > 15
    for sentence in sentences:
        named = re.search(r"`((?:tests/\S+)|(?:test_\w+))`$", sentence)
        assert named, sentence
        path, _, function = named[1].rpartition("::") if "::" in named[1] else (named[1], "", "")
        if named[1].startswith("tests/"):
            text = (PROJECT / path).read_text(encoding="utf-8")
        else:
            text, function = here, named[1]
        assert f"def {function}(" in text if function else text, sentence
