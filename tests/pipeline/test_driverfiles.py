"""``find --images``: driver files on disk, judged like images in memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.model import ImageCoverage
from pykdext.pipeline import driverfiles, paths
from pykdext.pipeline.driverfiles import _search_file as search_file
from pykdext.report.sentences.owners import describe_gap

IMAGES = Path(__file__).parent.parent.parent / "dumps" / "drivers" / "images" / "x64"


@pytest.fixture
def folder(tmp_path):
    """Drivers in two folders, one of them twice, and files that are none."""
    (tmp_path / "old").mkdir()
    for name in ("pippo.sys", "pagella.sys", "globus.sys"):
        shutil.copy(IMAGES / name, tmp_path)
    shutil.copy(IMAGES / "pippo.sys", tmp_path / "old")
    (tmp_path / "hiberfil.sys").write_bytes(bytes(64))
    (tmp_path / "notes.txt").write_bytes(b"MZ Pipo")
    return tmp_path


def find(capsys, *words):
    status = main(["find", *map(str, words), "--format", "json"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, json.loads(captured.out) if captured.out else captured.err


def owners_of(document, number=0):
    return [(owner["module"], owner["confidence"]) for owner in document["tags"][number]["owners"]]


def test_a_folder_is_searched_with_all_in_it(folder, capsys):
    status, document = find(capsys, "Pipo", "Pgla", "Glob", "--images", folder)
    assert status == 0
    pippos = [(str(path), "proven") for path in sorted((folder / "old" / "pippo.sys", folder / "pippo.sys"))]
    assert sorted(owners_of(document)) == pippos
    assert owners_of(document, 1) == [("pagella.sys", "proven")]
    assert owners_of(document, 2) == [("globus.sys", "proven")]
    coverage = document["tags"][0]["coverage"]
    assert (coverage["modules_scanned"], coverage["modules_total"]) == (4, 4)
    assert coverage["resident_fraction"] == 1


def test_processes_find_what_one_finds(folder, capsys):
    assert find(capsys, "Pipo", "Zzzz", "--images", folder, "--jobs", "1") == find(
        capsys, "Pipo", "Zzzz", "--images", folder, "--jobs", "3"
    )


def test_damaged_files_are_named_and_the_rest_is_searched(folder, capsys):
    whole = (IMAGES / "twinone.sys").read_bytes()
    (folder / "cut.sys").write_bytes(whole[:300])
    (folder / "noise.sys").write_bytes(b"MZ" + bytes(range(256)) * 8)
    status, document = find(capsys, "Pgla", "--images", folder)
    assert owners_of(document) == [("pagella.sys", "proven")]
    assert status == 1
    told = " ".join(document["warnings"])
    assert "cut.sys" in told
    assert "noise.sys" in told
    assert document["tags"][0]["coverage"]["modules_total"] == 6


def test_files_join_the_images_of_a_dump(tmp_path, capsys):
    from dumps.forge import forge

    forge("pipo").save(tmp_path / "m.dmp")
    shutil.copy(IMAGES / "globus.sys", tmp_path / "absent.sys")
    _, document = find(capsys, "Pipo", "Glob", tmp_path / "m.dmp", "--images", tmp_path / "absent.sys")
    assert ("pippo.sys", "proven") in owners_of(document)
    assert ("absent.sys", "proven") in owners_of(document, 1)


def search_or_die(job):
    """In a process of its own: one file ends it."""
    if "cut" in job.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return search_file(job)


def test_a_file_that_ends_its_process_is_named_and_the_rest_is_searched(folder, capsys, monkeypatch):
    shutil.copy(IMAGES / "twinone.sys", folder / "cut.sys")
    shutil.copy(IMAGES / "twintwo.sys", folder / "cut-too.sys")
    monkeypatch.setattr(driverfiles, "_search_file", search_or_die)
    status, document = find(capsys, "Pgla", "Glob", "Dupl", "--images", folder, "--jobs", 2)
    assert status == 1
    assert [owners_of(document, number) for number in range(3)] == [
        [("pagella.sys", "proven")],
        [("globus.sys", "proven")],
        [],
    ]
    ended = [line for line in document["warnings"] if "the process that searched it ended" in line]
    assert [line.partition(":")[0] for line in ended] == ["cut-too.sys", "cut.sys"]
    assert document["tags"][0]["coverage"]["modules_total"] == 6


def test_pipes_are_passed_over(folder, capsys):
    os.mkfifo(folder / "endless.sys")
    status, document = find(capsys, "Pgla", "--images", folder)
    assert (status, owners_of(document)) == (0, [("pagella.sys", "proven")])


def test_folders_that_cannot_be_listed_are_told(folder, capsys, monkeypatch):
    def walk(top, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder / "closed")))
        return real_walk(top)

    real_walk = os.walk
    monkeypatch.setattr(os, "walk", walk)
    status, document = find(capsys, "Pgla", "--images", folder)
    assert (status, owners_of(document)) == (1, [("pagella.sys", "proven")])
    assert f"{folder / 'closed'}: cannot be listed: Permission denied" in document["warnings"]


def test_a_limit_on_files_is_told(folder, capsys, monkeypatch):
    monkeypatch.setattr(paths, "MAX_FILES", 2)
    status, document = find(capsys, "Pgla", "--images", folder)
    assert status == 1
    assert any("not read, nor what follows: 2 files were found before it" in line for line in document["warnings"])


def test_patterns_name_images_as_they_name_logs(folder, capsys):
    status, document = find(capsys, "Pgla", "--images", folder / "**" / "p*.sys")
    assert (status, owners_of(document)) == (0, [("pagella.sys", "proven")])
    assert document["tags"][0]["coverage"]["modules_total"] == 3


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_search_is_one_line(name, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    status, message = find(capsys, "Pipo", "--images", tmp_path / name)
    assert status == 3
    assert len(message.splitlines()) == 1
    assert name in message
    assert "driver file" in message


def test_text_names_what_was_searched(folder, capsys):
    assert main(["find", "Pgla", "--images", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Owner: pagella.sys, proven" in out
    assert "4 of 4 images searched, 100% of their bytes" in out


@pytest.mark.parametrize(
    ("coverage", "words"),
    [
        (None, "there is no driver image to search"),
        (ImageCoverage(0, 0, None), "there is no driver image to search"),
        (ImageCoverage(0, 5, None), "none of the 5 driver images is in memory"),
        (ImageCoverage(0, 5, None, 5), "none of the 5 driver images was searched before the end"),
        (ImageCoverage(2, 5, 1.0, 3), "only 2 of the 5 driver images was searched before the end"),
        (ImageCoverage(3, 5, 1.0), "not in the 100% of 3 of 5 driver images that is in memory"),
        (ImageCoverage(5, 5, 0.63), "not in the 63% of the driver images that is in memory"),
        (
            ImageCoverage.of(5, 5, 0x2FD000, 0x2FD000, discarded_bytes=0x3000),
            "not in the 99.6% of the driver images that is in memory; it may be in the rest"
            " (12.0 KB of code that ran when they started is gone)",
        ),
        (ImageCoverage(5, 5, 1.0), "no driver image holds this tag, and no tag list names its driver"),
    ],
)
def test_what_was_searched_in_vain_is_never_more_than_was_there(coverage, words):
    assert describe_gap(coverage).startswith(words)


def test_a_file_proves_nothing_of_the_loaded_driver_of_its_name(tmp_path, capsys):
    """Another build under the name of a loaded driver, and the very build that is loaded."""
    dump, other = tmp_path / "MEMORY.DMP", tmp_path / "twinone.sys"
    forge("pipo", drivers=[IMAGES / "twinone.sys"]).save(dump)
    shutil.copy(IMAGES / "holder.sys", other)
    _, document = find(capsys, "Hldr", dump, "--images", other)
    assert owners_of(document) == [(str(other), "proven")]
    shutil.copy(IMAGES / "pippo.sys", tmp_path / "pippo.sys")
    _, document = find(capsys, "Pipo", dump, "--images", tmp_path / "pippo.sys")
    _, alone = find(capsys, "Pipo", dump)
    owners = {owner["module"]: owner for owner in document["tags"][0]["owners"]}
    assert owners.keys() == {"pippo.sys", str(tmp_path / "pippo.sys")}
    assert owners["pippo.sys"] == alone["tags"][0]["owners"][0]
