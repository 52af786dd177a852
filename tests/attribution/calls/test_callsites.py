"""Proof by the code that passes a tag to an allocator, in forged dumps that hold the sample drivers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dumps.forge import forge
from pykdext.attribution.calls import functions as followed
from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.callsites import CallSites, Sight, TagUse
from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.codeevidence import _find_origin
from pykdext.attribution.flow.values import Constant
from pykdext.attribution.places.index import ImageIndex
from pykdext.attribution.places.search import Place
from pykdext.attribution.places.x64 import X64_CODE
from pykdext.cli.main import main
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import PoolTag

DRIVERS = Path(__file__).parent.parent.parent.parent / "dumps" / "drivers" / "images"
OTHERS = ("pagella", "twinone", "twintwo", "holder")
MACHINES = [("x64", 7601), ("x64", 19041), ("x86", 7601), ("x86pae", 2600), ("arm64", 22000)]


def find(capsys, dump, *tags):
    assert main(["find", *tags, str(dump), "--format", "json"]) in (0, 1)
    return {tag["tag"]: tag["owners"] for tag in json.loads(capsys.readouterr().out)["tags"]}


@pytest.fixture(params=MACHINES, ids=str)
def owners(request, tmp_path, capsys):
    arch, build = request.param
    images = DRIVERS / ("x86" if arch.startswith("x86") else arch)
    machine = forge("pipo", arch=arch, build=build, drivers=[images / f"{name}.sys" for name in OTHERS])
    machine.save(tmp_path / "m.dmp")
    tags = ("Pipo", "Pgla", "Look", "Glob", "Ctxr", "Dupl", "Hldr")
    return find(capsys, tmp_path / "m.dmp", *tags)


def strongest(owners, tag):
    return {owner["module"]: owner["confidence"] for owner in owners[tag]}


def test_the_grade_of_each_way_to_the_allocator(owners):
    assert strongest(owners, "Pipo")["pippo.sys"] == "proven"
    assert strongest(owners, "Pgla")["pagella.sys"] == "proven"
    assert strongest(owners, "Look")["lookas.sys"] == "proven"
    assert strongest(owners, "Glob")["globus.sys"] == "proven"
    assert strongest(owners, "Ctxr")["ctxreg.sys"] == "proven"
    assert strongest(owners, "Hldr")["holder.sys"] == "proven"
    twins = strongest(owners, "Dupl")
    assert twins["twinone.sys"] == twins["twintwo.sys"] == "proven"


def test_nobody_else_is_proven_or_likely(owners):
    allowed = {
        "Pipo": {"pippo.sys"},
        "Pgla": {"pagella.sys"},
        "Look": {"lookas.sys"},
        "Glob": {"globus.sys"},
        "Ctxr": {"ctxreg.sys"},
        "Hldr": {"holder.sys"},
        "Dupl": {"twinone.sys", "twintwo.sys"},
    }
    for tag, modules in allowed.items():
        sure = {module for module, confidence in strongest(owners, tag).items() if confidence != "possible"}
        assert sure <= modules, tag


def test_the_evidence_says_how(owners):
    def details(tag):
        (owner,) = [owner for owner in owners[tag] if owner["confidence"] == "proven"]
        return [item["detail"] for item in owner["evidence"] if item["confidence"] == "proven"]

    assert any("ExAllocatePool" in text and "'Pipo'" in text for text in details("Pipo"))
    assert any("which hands tag 'Pgla' to ExAllocatePool" in text for text in details("Pgla"))
    assert any("read from +0x" in text for text in details("Glob"))
    assert any("LookasideList" in text for text in details("Look"))


@pytest.mark.parametrize("arch", ["x64", "x86", "arm64"])
def test_enough_proofs_end_the_search(arch):
    tag = PoolTag(b"Pgla")
    with open_image_file(str(DRIVERS / arch / "pagella.sys")) as file:
        image = read_image(file, file.modules()[0])
        ((_, places),) = ImageIndex([image], [tag]).find_places(tag)
        rvas = [place.rva for place in places.kept if place.encoding.kind == "immediate"]
        found = {
            enough: CallSites(FollowedImage(image, CodeRoom()), CalleeResolver([image])).find_uses(
                tag, rvas, (), enough
            )
            for enough in (1, 2, 99)
        }
    seen = {enough: {rva for rva in rvas if uses.sight(rva) is Sight.FOLLOWED} for enough, uses in found.items()}
    assert seen[99] == set(rvas)
    assert sum(use.is_proof for use in found[99].calls) == 3
    assert seen[1] < seen[99]
    assert sum(use.is_proof for use in found[1].calls) == 1
    assert found[1].calls[0] in found[2].calls


def test_without_a_decoder_there_is_no_proof_but_an_answer(tmp_path, capsys, monkeypatch):
    def follow_function(*_arguments):
        raise ImportError("ERROR: fail to load the dynamic library.")

    forge("pipo").save(tmp_path / "m.dmp")
    monkeypatch.setattr("pykdext.attribution.calls.functions.follow_function", follow_function)
    assert main(["find", "Pipo", str(tmp_path / "m.dmp")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Owner: pippo.sys, likely" in text
    assert "pippo.sys: its functions cannot be decoded (ERROR: fail to load the dynamic library.)" in text


@pytest.mark.parametrize("limit", ["MAX_FOLLOWED_BYTES", "MAX_FOLLOWED_IN_ALL_BYTES"])
def test_a_limit_on_followed_code_is_told(limit, tmp_path, capsys, monkeypatch):
    forge("pipo").save(tmp_path / "m.dmp")
    monkeypatch.setattr(followed, limit, 64)
    monkeypatch.setattr(CodeRoom.__init__, "__defaults__", (followed.MAX_FOLLOWED_IN_ALL_BYTES,))
    assert main(["find", "Pipo", str(tmp_path / "m.dmp"), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (owner,) = document["tags"][0]["owners"]
    assert (owner["module"], owner["confidence"]) == ("pippo.sys", "likely")
    told = "pippo.sys: not all functions with such tags were followed to their calls (limit: "
    assert any(line.startswith(told) for line in document["warnings"])


def test_neighbouring_instructions_with_one_tag_are_told_apart():
    use = TagUse(0x1020, Constant(0x6F706950, 0x1010), None)
    places = [Place(rva, X64_CODE.encodings[0]) for rva in (0x1018, 0x1012, 0x1008)]
    assert _find_origin(use, places) == 0x1012
    assert _find_origin(replace(use, source=Constant(0x6F706950, 0x1013)), places) == 0x1018
    assert _find_origin(replace(use, source=Constant(0x6F706950, 0x1030)), places) is None


def test_blocks_of_more_tags_than_are_looked_at_are_told(tmp_path, capsys):
    forge("pipo").save(tmp_path / "m.dmp")
    tags = [f"Tag{number}" for number in range(9)]
    assert main(["find", *tags, str(tmp_path / "m.dmp"), "--format", "json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert "what blocks point at was looked at for the first 8 of 9 tags only" in warnings
    assert main([str(tmp_path / "m.dmp"), "--format", "json"]) == 0
    assert not any("blocks point at" in line for line in json.loads(capsys.readouterr().out)["warnings"])
