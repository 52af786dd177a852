"""Tags whose driver was unloaded."""

from __future__ import annotations

import pytest

from pykdext.attribution.owners import find_unloaded_owners
from pykdext.model import Confidence, Module, PoolTag, TagDescription

OLDN = PoolTag(b"OldN")
LOADED = Module("pippo.sys", 0xFFFFF80001000000, 0x8000)
GONE = Module("OldNet.sys", 0xFFFFF80002000000, 0x8000, unloaded=True)


def described(*modules):
    return [TagDescription("OldN", module, "old packets", "pooltag.txt:7") for module in modules]


def test_the_tag_lists_name_a_driver_that_was_unloaded():
    (item,) = find_unloaded_owners(OLDN, described("oldnet.sys", "OLDNET.SYS", "other.sys", ""), [LOADED, GONE, GONE])
    assert (item.module, item.kind, item.confidence) == ("OldNet.sys", "unloaded", Confidence.POSSIBLE)
    assert "was unloaded" in item.detail


@pytest.mark.parametrize("modules", [(LOADED,), (LOADED, GONE, Module("oldnet.sys", 0xFFFFF80003000000, 0x8000)), ()])
def test_a_driver_that_is_loaded_or_was_never_there_is_not_gone(modules):
    assert list(find_unloaded_owners(OLDN, described("oldnet.sys"), modules)) == []


def test_nothing_is_known_of_a_tag_in_no_list():
    assert list(find_unloaded_owners(OLDN, (), [LOADED, GONE])) == []
