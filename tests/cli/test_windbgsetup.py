"""What setup-windbg finds, says and writes."""

from __future__ import annotations

import dataclasses
import os
import sysconfig

import pytest

from pykdext.cli.main import main
from pykdext.cli.windbgsetup import (
    JAVASCRIPT_NAME,
    SCRIPT_NAME,
    Surroundings,
    read_surroundings,
    render_setup,
    save_scripts,
)
from tests.helpers.windbgscreens import windbg_session

READY = Surroundings(True, (3, 9), True, r"C:\Python39\Scripts", True, (r"C:\Kits\Debuggers\x64",))


def test_all_is_ready():
    text = render_setup(READY)
    assert "Python 3.9 here has pykd." in text
    assert r"C:\Kits\Debuggers\x64\winext\pykd.dll" in text
    assert r"is on PATH, so !py finds poolleak: C:\Python39\Scripts" in text
    assert "     .load pykd\n     as !poolleak !py -3.9 poolleak\n" in text
    assert text.isascii() and max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"has_pykd": False}, "Python 3.9 here has no pykd yet."),
        ({"version": (3, 13), "has_pykd": False}, "Python 3.13 here has none on PyPI."),
        ({"version": (3, 13), "has_pykd": False}, "as !poolleak !py -3.9 poolleak"),
        ({"version": (3, 8)}, "as !poolleak !py -3.8 poolleak"),
        ({"on_path": False}, "as !poolleak !py -3.9 -m pykdext"),
        ({"on_path": False}, "or type !py -m pykdext instead"),
        ({"debugger_folders": ()}, r"     %LOCALAPPDATA%\Dbg\EngineExtensions\pykd.dll"),
        ({"extension_folder": r"C:\Users\anna\E"}, r"     C:\Users\anna\E\pykd.dll"),
        ({"has_store_debugger": True}, "its own folders are read-only: take the first"),
        ({"is_windows": False}, "This is not Windows"),
    ],
)
def test_what_is_missing_is_said(changes, words):
    assert words in render_setup(dataclasses.replace(READY, **changes))


def test_the_script_has_the_same_lines(tmp_path):
    written = save_scripts(str(tmp_path), READY)
    assert sorted(map(os.path.basename, written)) == sorted(os.listdir(tmp_path)) == [JAVASCRIPT_NAME, SCRIPT_NAME]
    assert (tmp_path / SCRIPT_NAME).read_text() == ".load pykd\nas !poolleak !py -3.9 poolleak\n"
    text = render_setup(READY, written)
    assert f"$<{tmp_path / SCRIPT_NAME}" in text and f".scriptload {tmp_path / JAVASCRIPT_NAME}" in text


def test_this_python():
    scripts = sysconfig.get_path("scripts")
    found = read_surroundings({"PATH": os.pathsep.join(["/nowhere", scripts + os.sep])})
    assert found.on_path and found.scripts_folder == scripts
    assert not read_surroundings({"PATH": ""}).on_path
    assert not read_surroundings({}).debugger_folders or os.name == "nt"


def test_as_a_command(tmp_path, capsys):
    assert main(["setup-windbg", "--write", str(tmp_path)]) == 0
    assert (tmp_path / SCRIPT_NAME).read_text() in capsys.readouterr().out.replace("     ", "")
    assert "pykdext" in (tmp_path / JAVASCRIPT_NAME).read_text()
    assert main(["setup-windbg", "--write", str(tmp_path / "none")]) == 3
    assert "No such file" in capsys.readouterr().err


def test_in_the_debugger():
    text = windbg_session("poolleak setup-windbg")
    assert "here has pykd." in text
    assert r"EngineExtensions\pykd.dll" in text
