"""Proof of different kinds for one owner, its code and the system's records, is told together in every format."""

from __future__ import annotations

import csv
import json

import pytest

from dumps.drivers import build
from dumps.forge import forge
from pykdext.cli.main import main

pefile = pytest.importorskip("pefile")
pytest.importorskip("capstone")

CALL, LIST = "call ExAllocatePoolWithTag with tag 'Lkas'", "a lookaside list of it (the list lies in its data)"


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """globus.sys leaks through a lookaside list of tag Lkas; the tag that its code allocates with is made the same."""
    machine = forge("lookaside", build=19041, arch="x64")
    path = build.IMAGES / "x64" / "globus.sys"
    image = pefile.PE(str(path))
    data = next(section for section in image.sections if section.Name.startswith(b".data"))
    rva = image.get_rva_from_offset(path.read_bytes().index(b"Glob", data.PointerToRawData))
    base = next(base for name, base, *_ in machine.truth.modules if name == "globus.sys")
    machine.write_virtual(base + rva, b"Lkas")
    saved = tmp_path_factory.mktemp("kinds") / "kinds.dmp"
    machine.save(saved)
    return saved


def run(capsys, *words):
    main([*map(str, words)])
    return capsys.readouterr().out


def test_text_json_and_csv_have_both_kinds_first(dump, capsys):
    document = json.loads(run(capsys, "find", "Lkas", dump, "--format", "json"))
    (owner,) = document["tags"][0]["owners"]
    kinds = [(item["kind"], item["confidence"]) for item in owner["evidence"]]
    assert kinds[:2] == [("call", "proven"), ("lookaside", "proven")]
    assert owner["confidence"] == "proven"

    rows = list(csv.DictReader(run(capsys, "find", "Lkas", dump, "--format", "csv").splitlines()))
    assert [(row["kind"], row["evidence_confidence"]) for row in rows] == kinds

    text = " ".join(run(capsys, "find", "Lkas", dump).split())
    assert 0 < text.index("Owner: globus.sys, proven") < text.index(CALL) < text.index(LIST)


def test_the_page_has_both_kinds_and_says_what_proof_is(dump, capsys, tmp_path):
    main(["analyze", str(dump), "--format", "html", "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert 0 < page.index(CALL) < page.index(LIST)
    assert "or the system's own records show that the driver has such blocks" in page
