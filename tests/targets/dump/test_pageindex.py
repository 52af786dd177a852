"""The rank of a bit: the page index against naive counting."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.targets.dump.pageindex import PageIndex


@settings(max_examples=200)
@given(st.binary(max_size=1500), st.integers(0, 7), st.data())
def test_page_index_is_the_naive_rank(bitmap, cut, data):
    bits = max(0, len(bitmap) * 8 - cut)
    index = PageIndex(bitmap, bits)
    set_bits = [n for n in range(bits) if bitmap[n // 8] >> n % 8 & 1]
    rank = {number: at for at, number in enumerate(set_bits)}
    assert index.present == len(set_bits)
    for number in [*range(min(bits, 64)), *range(max(0, bits - 64), bits + 80)]:
        assert index.find(number) == rank.get(number, -1)
    first = data.draw(st.integers(0, bits + 20))
    count = data.draw(st.integers(0, bits + 20))
    found = []
    for page, at, length in index.iter_runs(first, count):
        assert length > 0
        found += [(page + i, at + i) for i in range(length)]
    assert found == [(n, rank[n]) for n in set_bits if first <= n < first + count]
    assert index.count_below(first) == sum(n < first for n in set_bits)
    if first < bits:
        more = index.with_page(first)
        assert more.present == len({*set_bits, first})
        assert more.find(first) == index.count_below(first)


def test_page_index_across_blocks_and_windows():
    bits = 1 << 20
    for pattern in (b"\xff", b"\x00", b"\x01", b"\x80", b"\xaa", b"\xff\x00" * 300):
        bitmap = (pattern * (bits // 8))[: bits // 8]
        index = PageIndex(bitmap, bits)
        naive = bin(int.from_bytes(bitmap, "little")).count("1")
        assert index.present == naive
        covered = sum(length for _, _, length in index.iter_runs(0, bits))
        assert covered == naive
        last = max((n for n in range(bits - 20000, bits) if bitmap[n // 8] >> n % 8 & 1), default=None)
        if last is not None:
            assert index.find(last) == naive - 1
