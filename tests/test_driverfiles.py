"""``find --images``: driver files on disk, judged like images in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pykdext.cli import main

IMAGES = Path(__file__).parent.parent / "dumps" / "drivers" / "images" / "x64"


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
