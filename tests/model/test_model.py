from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.model import Confidence, PoolKind, PoolTag, PoolUsage


@given(st.binary(min_size=4, max_size=4))
def test_a_tag_reads_back_from_its_text_and_key(raw):
    tag = PoolTag(raw)
    assert PoolTag.from_text(tag.text) == tag
    assert tag.text.isascii() and tag.text.isprintable()
    assert tag.key == int.from_bytes(raw, "little")
    assert bytes.fromhex(tag.hex) == raw


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
def test_two_tags_never_read_alike(one, other):
    assert (PoolTag(one).text == PoolTag(other).text) == (one == other)


def test_bit_31_is_no_part_of_a_tag():
    assert PoolTag.from_key(0xEF706950).raw == b"Pipo"
    assert PoolTag.from_key(0x6F706950).raw == b"Pipo"


@pytest.mark.parametrize(
    ("text", "raw"), [("Irp", b"Irp "), ("Irp ", b"Irp "), ("A", b"A   "), (r"\x01\x02\x03\x04", b"\1\2\3\4")]
)
def test_text_is_padded_with_blanks(text, raw):
    assert PoolTag.from_text(text).raw == raw


@pytest.mark.parametrize("text", ["", "Toolong", "\u20ac", "ab\u20ac"])
def test_what_is_no_tag_is_refused(text):
    with pytest.raises(ValueError, match="1 to 4 characters"):
        PoolTag.from_text(text)


def test_share_freed_is_unknown_after_a_wrap():
    assert PoolUsage(allocs=10, frees=2**32 - 10, outstanding=20, bytes=640).freed_share is None
    assert PoolUsage(allocs=0, frees=0, outstanding=0, bytes=0).freed_share is None
    assert PoolUsage(allocs=200, frees=50, outstanding=150, bytes=1500).freed_share == 0.25
    assert PoolUsage(allocs=200, frees=50, outstanding=150, bytes=1507).bytes_each == 10


def test_words_are_poolmons():
    assert [pool.label for pool in PoolKind] == ["Nonp", "Paged"]
    assert Confidence.PROVEN.rank < Confidence.LIKELY.rank < Confidence.POSSIBLE.rank
