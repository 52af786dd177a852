"""Owners in drivers that nobody here wrote: WinDivert of PyPI's pydivert, the kernel modules of Debian's libwine."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter

import pytest

from dumps.drivers import build
from pykdext.cli.main import main
from pykdext.model import Confidence, PoolTag
from pykdext.pipeline.driverfiles import search_files
from tests.helpers import idioms
from tests.helpers.realdrivers import WINE, fetch_windivert

COMMON_TAGS = re.findall(
    r"\w+",
    """
    AfdB AfdC ALPC CcSc CM25 CM31 Cont Devi Driv Dump EtwB EtwR Even File FMfn FMsl FxDr Hal HidC IoNm Irp Key LSwi Mdl
    MmCa MmSt Mutn NDnd NbtC Ntff NtFs ObDi ObNm Pool PooL Proc Sect SeAc Sema Sess Strm Symb TcpE Thre Toke Usbd UdpA
    VadS Vad Wdf
    """,
)


def find(capsys, *words):
    assert main(["find", *map(str, words), "--format", "json"]) in (0, 1)
    return {entry["tag"]: entry["owners"] for entry in json.loads(capsys.readouterr().out)["tags"]}


@pytest.mark.parametrize("version", ["2.1.0", "4.0.1"])
def test_windivert_is_proven_to_own_its_tag(version, tmp_path, capsys):
    drivers = fetch_windivert(tmp_path, version)
    owners = find(capsys, "WDiv", "--images", tmp_path)["WDiv"]
    assert {owner["module"] for owner in owners} == {driver.name for driver in drivers}
    for owner in owners:
        assert owner["confidence"] == "proven"
        assert owner["part_of_windows"] is False
        proofs = [item for item in owner["evidence"] if item["confidence"] == "proven"]
        assert all(item["kind"] == "call" and "ExAllocatePool" in item["detail"] for item in proofs)


@pytest.mark.skipif(len(WINE) < 10, reason="the kernel modules of libwine are not installed")
def test_wine_owns_no_common_tag(capsys):
    options = [option for path in WINE for option in ("--images", path)]
    assert len(COMMON_TAGS) == 50
    for tag, owners in find(capsys, *COMMON_TAGS, *options).items():
        sure = [owner["module"] for owner in owners if owner["confidence"] != "possible"]
        assert sure == [], tag


SAMPLE_TAGS = {"Pipo", "Pgla", "Look", "Glob", "Ctxr", "Dupl", "Hldr", *idioms.all_tags()}
WORDS = 500


def test_words_that_no_image_allocates_have_no_likely_owner(tmp_path):
    """The pieces of text that are most common in all images at hand, in which they stand as text and constants."""
    paths = [*WINE, *sorted(build.IMAGES.glob("*/*.sys"))]
    with contextlib.suppress(pytest.skip.Exception):  # fewer images
        paths += fetch_windivert(tmp_path, "4.0.1")
    counts = Counter()
    for path in paths:
        for text in re.findall(rb"[A-Za-z0-9 _%]{6,}", path.read_bytes()):
            counts.update(text[start : start + 4].decode() for start in range(len(text) - 3))
    words = [word for word, _ in counts.most_common() if word.strip() == word and word not in {*SAMPLE_TAGS, "WDiv"}]
    tags = [PoolTag(word.encode()) for word in words[:WORDS]]
    assert len(tags) == WORDS
    found = search_files([str(path) for path in paths], tags).evidence
    wrong = [item for items in found.values() for item in items if item.confidence is not Confidence.POSSIBLE]
    assert wrong == []
