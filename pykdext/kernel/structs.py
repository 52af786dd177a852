"""Reading the kernel's structures by the names of their fields.

``Kernel.struct`` says where the fields stand and who knew it; here are the reads of memory by it.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator, Tuple

from pykdext.model import Record, Struct
from pykdext.targets.protocol import Target


def read_record(target: Target, form: Struct, address: int) -> Record:
    """The fields of the structure at ``address``; only the bytes from the first to the last of them are read.

    Raises:
        MemoryReadError: not all of these bytes are there.
    """
    start = form.start
    return form.parse(target.read_virtual(address + start, form.end - start), start)


def iter_records(target: Target, form: Struct, base: int, count: int) -> Iterator[Tuple[Any, ...]]:
    """The records of an array of ``count`` that are in memory, as values in the order of the form's fields.

    Callers that must know which of them are missing count them, or read runs of rows with ``iter_whole_rows``.

    Raises:
        StructSizeError: the structure's size is not known.
    """
    step = form.stride
    for rows in iter_whole_rows(target.read_present(base, count * step), base, step, count):
        yield from form.iter_unpack(rows)


def iter_row_runs(
    pieces: Iterable[Tuple[int, bytes]], base: int, row_bytes: int, row_count: int
) -> Iterator[Tuple[int, bytes]]:
    """Of a table at ``base`` the rows whose bytes are all in ``pieces``: runs, each with the number of its first row.

    ``pieces`` are ``(address, bytes)``, ascending and disjoint; a row may lie across pieces that touch each other.
    """
    end = base + row_count * row_bytes
    carry, reached = b"", base
    for address, data in pieces:
        if carry and address == reached:
            address, data = address - len(carry), carry + data  # noqa: PLW2901 - the piece, with what was left over
        reached = address + len(data)
        first = address + (base - address) % row_bytes
        last = reached - (reached - base) % row_bytes
        if first < min(last, end):
            yield (first - base) // row_bytes, data[first - address : min(last, end) - address]
        carry = data[last - address :] if last >= address else b""


def iter_whole_rows(pieces: Iterable[Tuple[int, bytes]], base: int, row_bytes: int, row_count: int) -> Iterator[bytes]:
    """The runs of ``iter_row_runs``, for callers that need not know where the rows stand."""
    return (run for _, run in iter_row_runs(pieces, base, row_bytes, row_count))
