"""Reports that may leave the house: no name of a machine, a person or a folder in any form of them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.cli.redaction import Redactor
from pykdext.model import UNUSED, Module, PoolSnapshot, PoolTag, SnapshotSource, TagUsage
from pykdext.records.snapshotfile import load_snapshot
from tests.conftest import PROJECT
from tests.helpers.patience import ends_soon

HOST, FOLDER = "FRASRV07", "Müller & Söhne"
LOGS = PROJECT / "dumps" / "samples" / "poolmon"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case") / FOLDER
    folder.mkdir()
    forge("pipo", build=19041).save(folder / f"{HOST}.dmp")
    forge("pipo", build=19041).save(folder / f"{HOST}-small.dmp", kind=4)
    shutil.copytree(LOGS, folder / "logs")
    main(["snapshot", str(folder / f"{HOST}.dmp"), "-o", str(folder / "state.json")])
    state = json.loads((folder / "state.json").read_text())
    state["host"] = HOST
    state["warnings"] = [f"{HOST.lower()} wrote C:\\Users\\jdoe\\dumps\\a b.dmp in a hurry", "\\\\FRAFS1\\dumps\\x.dmp"]
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("form", ["text", "json", "html", "csv"])
@pytest.mark.parametrize(
    "words",
    [
        ["{folder}/{host}.dmp"],
        ["{folder}/{host}-small.dmp"],
        ["{folder}/state.json"],
        ["diff", "{folder}/{host}.dmp", "{folder}/state.json"],
        ["trend", "{folder}/logs"],
        ["batch", "{folder}/{host}.dmp", "{folder}/{host}-small.dmp", "--jobs", "1"],
    ],
    ids=lambda words: words[0].rpartition("/")[2],
)
def test_no_form_has_a_name(folder, tmp_path, capsys, words, form):
    if form == "html":
        pytest.importorskip("jinja2")
    path = tmp_path / "out"
    typed = [word.format(folder=folder, host=HOST) for word in words]
    main([*typed, "--redact", "--format", form, "-o", str(path)])
    text = path.read_text(encoding="utf-8")
    seen = text.lower()
    for name in (HOST, "Söhne", "M\\u00fcller", "M\\xfcller", "jdoe", "FRAFS1", str(folder.parent)):
        assert name.lower() not in seen, name
    assert len(text) > 50


def test_what_a_report_is_about_stays(folder, capsys):
    main([str(folder / f"{HOST}.dmp"), "--redact"])
    redacted = " ".join(capsys.readouterr().out.split())
    assert redacted.startswith("path-1: kernel bitmap dump (type 6)")
    assert "looks like a leak of pippo.sys (proven)" in redacted
    assert 'poolleak snapshot "path-1" -o before.json' in redacted
    assert "fffff804`bbe9" in redacted and "poolleak sample drivers" in redacted


def test_the_same_name_has_the_same_placeholder(folder):
    state = load_snapshot(str(folder / "state.json"))
    redactor = Redactor()
    redacted = redactor.redact(state)
    assert (redacted.host, redacted.source.path) == ("host-1", "path-1")
    assert redacted.warnings[0].startswith("host-1 wrote path-")
    assert "jdoe" not in redacted.warnings[0] and redacted.warnings[0].endswith(" in a hurry")
    assert redactor.redact(redacted) == redacted
    other = replace(state, host="FRASRV08")
    assert redactor.redact((other, state)) == (replace(redacted, host="host-2"), redacted)


def test_numbers_and_tags_are_the_same_objects():
    rows = tuple(TagUsage(PoolTag(b"P:\\x"), UNUSED, UNUSED) for _ in range(3))
    snapshot = PoolSnapshot(SnapshotSource("dump", "a.dmp"), rows)
    assert Redactor().redact(snapshot).tags is rows


@pytest.mark.parametrize(
    "path",
    [
        "\\SystemRoot\\system32\\drivers\\pippo.sys",
        "\\SystemRoot\\System32\\Drivers\\pippo.sys",
        "C:\\Windows\\System32\\drivers\\pippo.sys",
        "\\??\\C:\\Windows\\system32\\drivers\\pippo.sys",
    ],
)
def test_the_folder_of_drivers_names_nobody(path):
    module = Module("pippo.sys", 0x1000, 0x1000, path)
    assert Redactor().redact(module) is module


@pytest.mark.parametrize(
    "path",
    [
        "\\SystemRoot\\system32\\drivers\\acme corp\\pippo.sys",
        "\\??\\C:\\Users\\jdoe\\pippo.sys",
        "\\Device\\HarddiskVolume3\\ProgramData\\x.sys",
    ],
)
def test_other_folders_may(path):
    redacted = Redactor().redact(Module("pippo.sys", 0x1000, 0x1000, path))
    assert (redacted.name, redacted.path) == ("pippo.sys", "path-1")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("C:\\Users\\jane doe\\a b\\pooltag.txt line 12, or not", "path-1 line 12, or not"),
        ("at \\\\server\\share\\a b.dmp, more", "at path-1, more"),
        ("/home/jane/log-1.txt: line 2", "path-1: line 2"),
        ("../jane/log-1.txt and ~/x", "path-1 and path-2"),
        ("https://intern.example/x/MEMORY.DMP?a=1, fetched", "path-1, fetched"),
        ("'C:\\logs' and 'C:/logs/new'", "'path-1' and 'path-2'"),
        ("\\SystemRoot\\system32\\drivers\\x.sys is read", "\\SystemRoot\\system32\\drivers\\x.sys is read"),
        ("12 of 16 rows/pages, n/a, and/or 5 MB/s", "12 of 16 rows/pages, n/a, and/or 5 MB/s"),
        ("!handle 0 3 0; gflags /ko /t Toke, .reload /f nt", "!handle 0 3 0; gflags /ko /t Toke, .reload /f nt"),
        ("read /srv/dumps. Then /srv/dumps/a.dmp", "read path-1. Then path-2"),
        ("tag \\xff\\x5c, !py poolleak, ub fffff804`bbe9 L6", "tag \\xff\\x5c, !py poolleak, ub fffff804`bbe9 L6"),
    ],
)
def test_what_reads_like_a_path_in_a_text(text, redacted):
    assert Redactor().redact_text(text) == redacted


def test_letters_that_only_look_like_a_name():
    """Python takes a long s for an s where case does not matter, but does not make one of the other."""
    text = "FRASRV.dmp and Fra\u017frv.DMP"
    assert Redactor(["frasrv.dmp"]).redact_text(text) in ("path-1 and path-1", "path-1 and Fra\u017frv.DMP")
    assert "frv" not in Redactor(["fra\u017frv.dmp", "frasrv.dmp"]).redact_text(text).lower()


@ends_soon
def test_many_values_with_one_redactor_end():
    redactor = Redactor()
    sources = [SnapshotSource("dump", f"/srv/{number}/MEMORY.DMP") for number in range(20_000)]
    assert [source.path for source in map(redactor.redact, sources)][-1] == "path-20000"


def test_a_path_that_is_a_word_leaves_the_word_alone():
    redactor = Redactor(["a", "bytes", "dump 1.dmp"])
    assert redactor.redact_text("a pool of bytes in dump 1.dmp") == "a pool of bytes in path-3"
    assert redactor.redact(SnapshotSource("log", "bytes")).path == "path-2"


def test_a_host_that_is_a_word_leaves_the_word_alone(folder):
    state = replace(load_snapshot(str(folder / "state.json")), host="small", warnings=("a small memory dump",))
    redacted = Redactor().redact(state)
    assert (redacted.host, redacted.warnings) == ("host-1", ("a small memory dump",))


def test_the_command_that_made_a_page_is_redacted_too(folder, tmp_path):
    pytest.importorskip("jinja2")
    path = tmp_path / "page.html"
    main([str(folder / f"{HOST}.dmp"), "--redact", "--format", "html", "-o", str(path)])
    footer = path.read_text(encoding="utf-8").partition("<footer>")[2].partition("</footer>")[0]
    assert "poolleak &#39;path-1&#39; --redact --format html -o path-2" in footer


@pytest.mark.parametrize(
    "text",
    [
        r"at \Device\HarddiskVolume3\My Secret Folder\inner",
        r"at C:\My Secret Folder\inner",
        r"at \??\C:\Users\Secret Person\x",
        "of secretia, which leaks",
        "SECRETIA: found",
    ],
)
def test_nothing_is_left_of_folders_and_hosts_in_running_text(text):
    redactor = Redactor()
    redactor.redact({"host": "secretia"})
    assert "secret" not in redactor.redact_text(text).lower()


def test_errors_are_redacted_too(tmp_path, capsys):
    path = tmp_path / "SecretHost" / "SecretName.dmp"
    assert main(["analyze", str(path), "--redact"]) == 3
    said = capsys.readouterr().err
    assert "Secret" not in said and str(tmp_path) not in said
    assert said.startswith("poolleak: path-1: ")


@pytest.mark.parametrize("host", ["mars", "web", "dbsrv", "k8s", "MARS"])
def test_short_names_of_hosts_in_small_letters_are_redacted_in_texts(host):
    text = f"{host}.dmp of {host.lower()} is cut; {host.upper()}'s pool leaks, remarsed it is not"
    redacted = Redactor().redact({"host": host, "warning": text})
    assert redacted["host"] == "host-1"
    assert not re.search(rf"\b{host}\b", redacted["warning"], re.I)
    assert redacted["warning"].endswith("pool leaks, remarsed it is not")


@pytest.mark.parametrize("host", ["pool", "driver", "dump"])
def test_names_that_are_words_of_sentences_leave_them_readable(host):
    text = f"the {host} is not whole"
    assert Redactor().redact({"host": host, "warning": text})["warning"] == text


def test_people_are_taken_out_of_what_objects_are_named():
    redactor = Redactor()
    sid = "S-1-5-21-1004336348-1177238915-682003330-1001"
    said = redactor.redact_text(
        f"holds 9 of 9, all of them to \\REGISTRY\\USER\\{sid}\\Software; "
        "HarddiskVolume2\\Users\\jane roe\\AppData (Ntfs.sys) (12), HarddiskVolume2\\Users\\JDoe (Ntfs.sys)"
    )
    assert said == (
        "holds 9 of 9, all of them to \\REGISTRY\\USER\\person-1\\Software; "
        "HarddiskVolume2\\Users\\person-2\\AppData (Ntfs.sys) (12), HarddiskVolume2\\Users\\person-3 (Ntfs.sys)"
    )
    assert redactor.redact_text(f"{sid}_Classes") == "person-1_Classes"
    nobody = "\\REGISTRY\\USER\\S-1-5-18\\Environment, HarddiskVolume2\\Users\\Public\\Documents (Ntfs.sys)"
    assert redactor.redact_text(nobody) == nobody
