from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pykdext.kernel.structs import iter_whole_rows

BASE = 0xFFFFA00000000010


@given(st.integers(1, 9), st.integers(0, 12), st.lists(st.tuples(st.integers(0, 7), st.integers(1, 20)), max_size=12))
def test_rows_are_whole_and_none_is_lost(row_bytes, row_count, parts):
    """``parts``: a gap, then a piece, and so on; compared with a byte-by-byte search."""
    memory, pieces, offset = {}, [], 0
    for gap, size in parts:
        offset += gap
        data = bytes((offset + i) % 251 for i in range(size))
        pieces.append((BASE + offset, data))
        memory.update({offset + i: byte for i, byte in enumerate(data)})
        offset += size
    expected = [
        bytes(memory[row * row_bytes + i] for i in range(row_bytes))
        for row in range(row_count)
        if all(row * row_bytes + i in memory for i in range(row_bytes))
    ]
    found = [
        run[start : start + row_bytes]
        for run in iter_whole_rows(pieces, BASE, row_bytes, row_count)
        for start in range(0, len(run), row_bytes)
    ]
    assert found == expected


def test_a_piece_that_begins_before_the_table_counts_from_its_base():
    assert list(iter_whole_rows([(BASE + 1, b"23456")], BASE, 4, 9)) == []
    assert list(iter_whole_rows([(BASE + 1, b"2345678")], BASE, 4, 9)) == [b"5678"]
