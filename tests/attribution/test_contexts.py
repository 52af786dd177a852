"""A minifilter's context registration is proof where it is registered and a call allocates contexts of its type."""

from __future__ import annotations

import struct

import pytest

from dumps.drivers import build
from pykdext.model import Confidence, EvidenceKind, PoolTag
from pykdext.pipeline.driverfiles import search_files

TAG = PoolTag(b"Ctxr")


def find(path):
    (item,) = search_files([str(path)], [TAG]).evidence[TAG]
    return item


@pytest.mark.parametrize("architecture", ["x64", "x86", "arm64"])
def test_a_call_that_allocates_by_it_proves_a_registration(architecture):
    item = find(build.IMAGES / architecture / "ctxreg.sys")
    assert (item.kind, item.confidence) == (EvidenceKind.REGISTRATION, Confidence.PROVEN)
    assert "FltAllocateContext allocates such a context at +0x" in item.detail


@pytest.mark.parametrize("change", ["another type", "no registration", "two sizes"])
def test_without_one_of_both_it_is_likely(change, tmp_path):
    content = (build.IMAGES / "x64" / "ctxreg.sys").read_bytes()
    tag = content.index(b"Ctxr")
    entry = content[tag - 0x18 : tag + 0x20]
    if change == "another type":  # mov dx, 10h
        assert content.count(b"\x66\xba\x10\0") == 1
        content = content.replace(b"\x66\xba\x10\0", b"\x66\xba\x08\0")
    elif change == "no registration":  # the version of FLT_REGISTRATION
        assert content.count(b"\x70\0\x03\x02") == 1
        content = content.replace(b"\x70\0\x03\x02", b"\x70\0\0\0")
    else:  # the entry that ends the array becomes one of this type
        end = content.index(struct.pack("<H", 0xFFFF), tag)
        second = entry.replace(b"Ctxr", b"Ctx2")
        content = content[:end] + second + struct.pack("<H", 0xFFFF) + content[end + len(second) + 2 :]
    (tmp_path / "ctxreg.sys").write_bytes(content)
    assert find(tmp_path / "ctxreg.sys").confidence is Confidence.LIKELY
