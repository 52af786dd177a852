"""Tags of static libraries and of many drivers: they accuse nobody."""

from __future__ import annotations

from dataclasses import replace

from pykdext.attribution.owners import (
    ModuleFacts,
    describe_sharing,
    find_static_library,
    limit_library_evidence,
    weigh_evidence,
)
from pykdext.attribution.taglists import PoolTagList, parse_pooltags
from pykdext.model import Confidence, Evidence, EvidenceKind, Owner, PoolTag

SESD, VMBK, PIPO = PoolTag(b"SeSd"), PoolTag(b"VmbK"), PoolTag(b"Pipo")
TAGS = PoolTagList(parse_pooltags("VmbK - kmcl.lib - virtual bus\nPipo - pippo.sys - packets\n", "pooltag.txt"))


def evidence(tag, module, confidence=Confidence.PROVEN):
    return Evidence(
        tag, module, EvidenceKind.CALL, confidence, f"call ExAllocatePoolWithTag with tag {tag.text!r}", 0x1234
    )


def test_libraries_by_their_tags():
    for raw in (b"SeSd", b"SeAl", b"SeTs", b"PpRb", b"PpUc"):
        assert find_static_library(PoolTag(raw)) == "wdmsec.lib"
    assert find_static_library(PIPO) is None


def test_libraries_by_a_tag_list():
    assert find_static_library(VMBK, TAGS.find_descriptions(VMBK)) == "kmcl.lib"
    assert find_static_library(PIPO, TAGS.find_descriptions(PIPO)) is None
    assert find_static_library(VMBK) is None


def test_the_best_line_of_a_list_decides():
    tags = PoolTagList(parse_pooltags("Pipo - pippo.sys - exact\nPi* - vendor.lib - wild\n", "pooltag.txt"))
    assert find_static_library(PIPO, tags.find_descriptions(PIPO)) is None
    assert find_static_library(PoolTag(b"Pix0"), tags.find_descriptions(PoolTag(b"Pix0"))) == "vendor.lib"


def test_a_driver_that_links_a_library_is_only_possible():
    (item,) = limit_library_evidence([evidence(SESD, "pippo.sys")], "wdmsec.lib")
    assert item.confidence is Confidence.POSSIBLE
    assert item.detail.startswith("call ExAllocatePoolWithTag with tag 'SeSd'")
    assert "static library wdmsec.lib" in item.detail
    assert (item.module, item.kind, item.rva) == ("pippo.sys", "call", 0x1234)


def test_nt_uses_these_tags_itself():
    for name in ("nt", "ntoskrnl.exe", "ntkrnlmp.exe"):
        own = evidence(SESD, name)
        assert list(limit_library_evidence([own], "wdmsec.lib")) == [own]


def test_a_library_is_no_owner():
    items = [evidence(VMBK, "kmcl.lib", Confidence.POSSIBLE), evidence(VMBK, "storvsc.sys")]
    assert [item.module for item in limit_library_evidence(items, "kmcl.lib")] == ["storvsc.sys"]


def owner(module, confidence=Confidence.PROVEN):
    return Owner(module, confidence, (evidence(PIPO, module, confidence),))


def test_one_tag_in_many_drivers():
    owners = [owner(f"{name}.sys") for name in ("pippo", "pluto", "topo", "paperone", "qui", "quo")]
    found = describe_sharing(PIPO, [*owners, owner("weak.sys", Confidence.POSSIBLE)])
    assert "is used by 6 modules" in found
    assert found.endswith("pippo.sys, pluto.sys, topo.sys, paperone.sys and 2 more")
    assert describe_sharing(PIPO, owners[:2]).endswith("pippo.sys, pluto.sys")


def test_one_best_owner_is_not_shared():
    assert describe_sharing(PIPO, []) is None
    assert describe_sharing(PIPO, [owner("pippo.sys")]) is None
    assert describe_sharing(PIPO, [owner("pippo.sys"), owner("pluto.sys", Confidence.LIKELY)]) is None


def test_proofs_of_different_kinds_are_told_together():
    """Of four calls and a lookaside list, all proven, the list is the second: reports show the first few."""
    calls = [evidence(PIPO, "pippo.sys") for _ in range(4)]
    listed = Evidence(PIPO, "pippo.sys", EvidenceKind.LOOKASIDE, Confidence.PROVEN, "a lookaside list", 0x4000)
    freed = Evidence(PIPO, "pippo.sys", EvidenceKind.FREE, Confidence.LIKELY, "call ExFreePoolWithTag", 0x1300)
    (owner,) = weigh_evidence([*calls, freed, listed], ModuleFacts((), {}))
    assert [item.kind for item in owner.evidence] == [
        EvidenceKind.CALL,
        EvidenceKind.LOOKASIDE,
        *[EvidenceKind.CALL] * 3,
        EvidenceKind.FREE,
    ]


def test_of_an_objects_tag_nt_is_told_before_its_equals():
    items = [evidence(PIPO, "pippo.sys"), evidence(PIPO, "ntoskrnl.exe"), evidence(PIPO, "topo.sys")]
    facts = ModuleFacts((), {})
    names = [owner.module for owner in weigh_evidence(items, facts, is_object=True)]
    assert names == ["ntoskrnl.exe", "pippo.sys", "topo.sys"]
    assert [owner.module for owner in weigh_evidence(items, facts)] == ["pippo.sys", "topo.sys", "ntoskrnl.exe"]
    weaker = [evidence(PIPO, "pippo.sys"), replace(items[1], confidence=Confidence.LIKELY)]
    assert next(iter(weigh_evidence(weaker, facts, is_object=True))).module == "pippo.sys", "only among equals"
