"""Tables of tags that code indexes: each entry is likely, one of so many; words at equal distances alone are not."""

from __future__ import annotations

import pytest

from dumps.drivers import build
from pykdext.model import Confidence, PoolTag
from pykdext.pipeline.driverfiles import search_files

SOURCE = build.IMAGES / "x64" / "idioms-O2.sys"


def find(path, tag):
    return search_files([str(path)], [PoolTag(tag)]).evidence[PoolTag(tag)]


@pytest.mark.parametrize("tag", [b"Tab1", b"Tab2", b"Tab3"])
def test_each_entry_is_one_of_so_many(tag):
    (item,) = find(SOURCE, tag)
    assert item.confidence is Confidence.LIKELY
    assert item.detail.startswith(f"dword {tag.decode()!r}, one of 3 in a table of tags at +0x2064; ")
    assert "ExAllocatePoolWithTag at +0x1447 with a tag by an index" in item.detail


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x40\0\0\0Tab1\0\2\0\0Tab2\0\x10\0\0Tab3", b"\x40\0\0\0\1ab1\0\2\0\0Tab2\0\x10\0\0\1ab3"),  # one tag alone
        (b"\x40\0\0\0Tab1\0\2\0\0Tab2\0\x10\0\0Tab3", b"textTab1textTab2textTab3"),  # a text
    ],
)
def test_what_is_no_table_is_no_more_than_possible(old, new, tmp_path):
    content = SOURCE.read_bytes()
    assert content.count(old) == 1
    (tmp_path / "made.sys").write_bytes(content.replace(old, new))
    found = find(tmp_path / "made.sys", b"Tab2")
    assert all(item.confidence is Confidence.POSSIBLE for item in found)
