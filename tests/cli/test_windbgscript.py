"""poolleak.js, WinDbg's way without pykd: run under Node with a stand-in of the debugger's host, on a real dump.

What ``||`` prints is as Microsoft's engine 10.0.15063 words it. What the stand-in cannot show: how WinDbg passes the
text of a command on, and that its .shell starts cmd.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from dumps.forge import forge
from pykdext.cli.windbgsetup import Surroundings, save_scripts
from tests.conftest import PROJECT

NODE = shutil.which("node")
HOST = PROJECT / "tests" / "helpers" / "windbghost.js"

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

LIVE = ".  0 Remote KD: KdSrv:Server=@{<Local>},Trans=@{NET:Port=50000}"


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("a b") / "MEMORY.DMP"
    forge("pipo", build=19041).save(path)
    return path


@pytest.fixture
def type_text(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    program = (sys.executable, "-m", "pykdext")
    script, _ = save_scripts(str(tmp_path), Surroundings(True, (3, 13), False, "", True, (), program=program))

    def type_text(session, *typed):
        command = [NODE, HOST, script, session, tmp_path, *typed]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout

    return type_text


def session_on(path):
    return f".  0 64-bit Kernel bitmap dump: {path}"


def test_without_words_it_gives_the_verdict_on_the_dump_that_is_open(type_text, dump, tmp_path):
    text = type_text(session_on(dump))
    assert text.startswith(f"{dump}: kernel bitmap dump (type 6)\n")
    assert "looks like a leak of pippo.sys (proven)." in " ".join(text.split()) and "<" not in text.replace(
        "<0.01%", ""
    )
    assert text.splitlines()[-1].startswith(f"With links: .dml_start {tmp_path}")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("used --top 2 --tag P*", "Pipo  Nonp"),
        ("find Pipo --width 90", "Owner: pippo.sys, proven"),
        ("blocks Pipo --top 1", "blocks of Pipo"),
        ("find --help", "usage: poolleak find"),
        ("schema report", '"poolleak.report/1"'),
        ("usde", "did you mean used"),
    ],
)
def test_commands_and_their_words(type_text, dump, typed, words):
    assert words in type_text(session_on(dump), typed)


def test_a_file_that_is_named_is_read_instead_of_the_open_one(type_text, dump):
    text = type_text(session_on("C:\\absent.dmp"), f"used '{dump}' --top 1")
    assert text.startswith(f"{dump}: kernel bitmap dump")
    doubled = str(dump).replace("/", "\\\\")
    assert "absent" not in type_text(session_on("C:\\absent.dmp"), f"used '{doubled}'")


def test_a_live_session_is_told_what_it_needs(type_text):
    text = type_text(LIVE, "used")
    assert "no dump file" in text and "setup-windbg" in text and ".dump /f" in text


@pytest.mark.parametrize("typed", ["used 100%PATH%.dmp", 'find "Pipo', "used a^b.dmp"])
def test_nothing_reaches_the_shell_that_it_would_take_for_its_own(type_text, dump, typed):
    assert "which the shell would take for its own" in type_text(session_on(dump), typed)


def test_the_script_has_no_syntax_that_is_newer_than_the_debugger_s_engine():
    text = (PROJECT / "pykdext" / "cli" / "data" / "poolleak.js").read_text(encoding="ascii")
    code = re.sub(r"(?m)//.*$", "", text)
    assert not re.search(
        r"\?\.[A-Za-z(\[]|\?\?|\*\*|\basync\b|\bawait\b|\.\.\.\w+ *[,}]? *}|/s[gimuy]*[,;)]|catch *\{", code
    )


def test_links_are_commands_of_the_script(dump, capsys):
    from pykdext.cli.main import main

    main(["used", str(dump), "--top", "1", "--format", "dml"])
    assert f"<link cmd=\"!poolleak &quot;find Pipo '{dump}'&quot;\">Pipo</link>" in capsys.readouterr().out
