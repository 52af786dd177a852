"""Files, folders and patterns: one rule for every command that takes several of them."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.pipeline import paths
from pykdext.pipeline.paths import find_files, natural_order
from tests.conftest import PROJECT
from tests.helpers.fleetdumps import set_time

LOGS = sorted((PROJECT / "dumps" / "samples" / "poolmon").iterdir())


def make_tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def found_in(root, *words, is_wanted=lambda path: path.endswith(".txt")):
    found = find_files([str(root / word) for word in words], is_wanted)
    return [os.path.relpath(path, root) for path in found.files], found


@pytest.fixture
def tree(tmp_path):
    make_tree(
        tmp_path,
        "log-1.txt",
        "log-10.txt",
        "log-2.txt",
        "picture.png",
        "a/log-3.txt",
        "a/b/log-4.txt",
        "a/b/c/log-5.txt",
        ".hidden/log-6.txt",
    )
    return tmp_path


EVERY = ["log-1.txt", "log-2.txt", "log-10.txt"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([""], [*EVERY, ".hidden/log-6.txt", "a/log-3.txt", "a/b/log-4.txt", "a/b/c/log-5.txt"]),
        (["*.txt"], EVERY),
        (["**/*.txt"], ["a/b/c/log-5.txt", "a/b/log-4.txt", "a/log-3.txt", *EVERY]),
        (["**/b/*.txt"], ["a/b/log-4.txt"]),
        (["a/**/log-[45].txt"], ["a/b/c/log-5.txt", "a/b/log-4.txt"]),
        (["**/**/c/**"], ["a/b/c/log-5.txt"]),
        (["a*"], ["a/log-3.txt", "a/b/log-4.txt", "a/b/c/log-5.txt"]),
        (["a/../log-?.txt"], ["log-1.txt", "log-2.txt"]),
        ([".hid*/*"], [".hidden/log-6.txt"]),
        (["picture.png"], ["picture.png"]),
        (["pict*"], ["picture.png"]),
        (["gone.txt"], ["gone.txt"]),
        (["log-2.txt", "*.txt", "./log-1.txt"], ["log-2.txt", "log-1.txt", "log-10.txt"]),
    ],
)
def test_what_a_word_stands_for(words, names, tree):
    listed, found = found_in(tree, *words)
    assert listed == [name.replace("/", os.sep) for name in names]
    assert found.warnings == ()


def test_what_lies_in_a_folder_and_is_of_another_kind_is_counted(tree):
    assert found_in(tree, "")[1].passed_over == 1
    assert found_in(tree, "*")[1].passed_over == 0


def test_a_name_with_the_signs_of_a_pattern_is_that_file(tmp_path):
    make_tree(tmp_path, "log[1].txt", "log1.txt")
    assert found_in(tmp_path, "log[1].txt")[0] == ["log[1].txt"]


def test_nothing_that_matches_is_told(tree):
    listed, found = found_in(tree, "*.log", "**/z/*")
    assert listed == []
    assert found.warnings == (f"{tree / '*.log'}: no file matches", f"{tree / '**/z/*'}: no file matches")


def test_a_tree_that_links_to_itself_ends(tree):
    os.symlink(tree, tree / "a" / "again")
    os.symlink(tree / "a", tree / "also")
    listed, _ = found_in(tree, "**/*.txt")
    assert listed == ["a/b/c/log-5.txt", "a/b/log-4.txt", "a/log-3.txt", *EVERY]
    assert found_in(tree, "al*/*.txt")[0] == ["also/log-3.txt"]


def test_pipes_of_folders_and_patterns_are_passed_over(tree):
    os.mkfifo(tree / "pipe.txt")
    for word in ("", "*.txt"):
        listed, found = found_in(tree, word)
        assert "pipe.txt" not in listed
        assert found.passed_over == (2 if word == "" else 1)
    assert found_in(tree, "pipe.txt")[0] == ["pipe.txt"]


@pytest.mark.parametrize("word", ["", "**/*.txt", "a/*/*.txt"])
def test_a_folder_that_cannot_be_listed_is_told(word, tree, monkeypatch):
    closed = str(tree / "a" / "b")
    real = os.scandir

    def scandir(path):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    _, found = found_in(tree, word)
    assert f"{closed}: cannot be listed: Permission denied" in found.warnings


def test_the_limit_is_told_once(tree, monkeypatch):
    monkeypatch.setattr(paths, "MAX_FILES", 2)
    listed, found = found_in(tree, "*.txt", "a")
    assert listed == EVERY[:2]
    assert found.warnings == (f"{tree / 'log-10.txt'}: not read, nor what follows: 2 files were found before it",)


@given(st.lists(st.integers(0, 10**30), unique=True))
def test_numbers_in_names_count_as_numbers(numbers):
    names = [f"log-{number}.txt" for number in numbers]
    assert sorted(names, key=natural_order) == [f"log-{number}.txt" for number in sorted(numbers)]


@given(st.lists(st.text()))
def test_any_names_have_an_order(names):
    backwards = names[::-1]
    assert sorted(names, key=natural_order) == sorted(backwards, key=natural_order)


@pytest.mark.parametrize("form", ["logs", "logs/**/*.txt", "log*", "logs/*", "logs/one/.."])
def test_a_series_is_found_at_any_depth(form, tmp_path, capsys):
    for number, source in enumerate(LOGS):
        folder = tmp_path / "logs" / "/".join(["one", "two", "three"][: number % 4])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, folder)
    assert main(["trend", str(tmp_path / form), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == len(LOGS)


def test_every_command_finds_the_same_dumps(tmp_path, capsys):
    for number, name in enumerate(("a.dmp", "x/b.dmp", "x/y/c.dmp")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        forge("pipo", seed=number).save(path)
        set_time(path, datetime(2026, 11, number + 1, tzinfo=timezone.utc))
    for word in (tmp_path, tmp_path / "**" / "*.dmp", tmp_path / "**"):
        assert main(["batch", str(word), "--jobs", "1", "--format", "json"]) == 0
        dumps = {Path(row["path"]).name for row in json.loads(capsys.readouterr().out)["dumps"]}
        assert dumps == {"a.dmp", "b.dmp", "c.dmp"}
        assert main(["trend", str(word), "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["samples"] == 3


def test_what_no_series_needs_is_passed_over_and_what_is_damaged_is_told(tmp_path, capsys):
    for source in LOGS[:4]:
        shutil.copy2(source, tmp_path)
    (tmp_path / "chart.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert main(["trend", str(tmp_path), "--format", "json"]) == 0
    capsys.readouterr()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "cut.dmp").write_bytes(bytes(10))
    assert main(["trend", str(tmp_path), str(tmp_path / "*.gone"), "--format", "json"]) == 1
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert all(any(name in line for line in warnings) for name in ("empty.txt", "cut.dmp", "*.gone"))
