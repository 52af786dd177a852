"""Where the big-page table is: by symbols; in kernels that nobody knows by what it holds, and by nt's own code.

A row stands where the hash of its page puts it (public decompilations since Vista: 40543 times the page number, its
halves exclusive-or'd, modulo the table's rows; before, its bytes exclusive-or'd; linear probing). That tells the table
from everything else to which nt has pointers, and how many rows it has: half of its rows would stand elsewhere in one
twice or half as long.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.believed import hash_of_vista
from pykdext.kernel.pool.inference import is_table_pointer, iter_variables
from pykdext.kernel.structs import iter_row_runs
from pykdext.model import PROTECTED_POOL, Machine, Struct
from pykdext.model.layouts import make_struct
from pykdext.model.structtables import SOURCE, list_layouts
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

TYPE_NAME = "_POOL_TRACKER_BIG_PAGES"
FIELDS = ("Va", "Key", "PoolType", "NumberOfBytes", "NumberOfPages")
FREE = 1
"""Bit 0 of Va: the entry is not in use."""

MAX_ROWS = 1 << 24
"""Windows doubles the table as it fills; 16 million entries describe 64 GiB in the smallest big allocations."""

MAX_CANDIDATES = 16384
"""Pointers of nt's data that are followed."""

_MIN_BITS, _MAX_BITS = 6, 24
_HEAD_BYTES = 16 * PAGE_BYTES
_SMALLEST_MASK = (1 << _MIN_BITS) - 1
_FARTHEST_ROWS = 8
_PLACED_SHARE, _PLAUSIBLE_SHARE = 0.8, 0.9
_FEWEST_ROWS = 8
_HALVES_MISSED = 4
_SYMBOLS = ("PoolBigPageTable", "PoolBigPageTableSize")
_HINT = "Hint: give the kernel's PDB with --symbols"


class BigTableLocation(NamedTuple):
    """The table: its address and number of rows, and what is uncertain of them, in words."""

    base: int
    row_count: int
    warnings: Tuple[str, ...] = ()


def locate_big_table(kernel: Kernel) -> BigTableLocation:
    """Find the table.

    Raises:
        TargetError: nothing tells where it is, or what tells it does not agree.
    """
    base, count = map(kernel.find_variable, _SYMBOLS)
    if base and count:
        return BigTableLocation(base, count)
    if all(map(kernel.find_symbol, _SYMBOLS)):
        raise TargetError(f"big-page table: found no value of nt!{_SYMBOLS[0]} and its size, expected both. {_HINT}")
    return _infer_location(kernel)


def list_big_forms(pointer_size: int) -> Iterator[Struct]:
    """The shipped layouts of a row, of kernels with pointers of this size; of those alike in Va and Key the first."""
    seen: Set[Tuple[int, Optional[int], Optional[int]]] = set()
    for shipped in list_layouts(TYPE_NAME):
        if any(kernels.machine.pointer_size == pointer_size for kernels in shipped.kernels):
            form = make_struct(TYPE_NAME, SOURCE, shipped.layout, FIELDS, lambda _: None)
            places = (form.stride, form.offset("Va"), form.offset("Key"))
            if places not in seen:
                seen.add(places)
                yield form


def count_plausible_rows(form: Struct, table: bytes, machine: Machine) -> int:
    """How many rows hold the address of a kernel page, used or free, with a printable tag; 0 if too many do not."""
    rows = [(va, key) for va, key, *_ in form.iter_unpack(table) if va & ~FREE]
    good = sum(_is_plausible(va, key, machine) for va, key in rows)
    return good if good >= _PLAUSIBLE_SHARE * len(rows) else 0


def _is_plausible(va: int, key: int, machine: Machine) -> bool:
    return (
        va >= machine.kernel_start
        and va % PAGE_BYTES in (0, FREE)
        and all(0x20 <= byte < 0x7F for byte in (key & ~PROTECTED_POOL).to_bytes(4, "little"))
    )


def _infer_location(kernel: Kernel) -> BigTableLocation:
    """By what nt's variables point at, and what of it nt's pool routines use."""
    found: Dict[int, Set[int]] = {}
    for address, word in iter_variables(kernel.target, kernel.nt):
        if is_table_pointer(word, kernel.target.machine) and (word in found or len(found) < MAX_CANDIDATES):
            found.setdefault(word, set()).add(address)
    forms = list(list_big_forms(kernel.target.pointer_size))
    tables = {base: form for base in found for form in _fit_form(kernel, base, forms)}
    if not tables:
        raise TargetError(f"big-page table: found no symbol for nt!{_SYMBOLS[0]} and nothing like it. {_HINT}")
    code = kernel.pool_code_variables
    used = [base for base in tables if found[base] & code]
    if len(used) == 1:
        (base,) = used
    elif len(tables) == 1 and not code:
        (base,) = tables
    else:
        could = count_things(len(tables), "table")
        raise TargetError(
            f"big-page table: {could} that nt's data lead to could be it, and nt's pool routines use {len(used)} of "
            f"them: none is used. {_HINT}"
        )
    return _infer_rows(kernel, base, tables[base], code=frozenset(filter(None, map(kernel.read_word, code))))


def _infer_rows(kernel: Kernel, base: int, form: Struct, code: FrozenSet[int]) -> BigTableLocation:
    """How many rows the table has, by where they stand and by the numbers that nt's pool routines use."""
    placed = _count_rows(kernel, base, form)
    sizes = {1 << bits for bits in range(_MIN_BITS, _MAX_BITS + 1)} & code
    if placed is not None and (placed in sizes or not sizes):
        told = f"the big-page table was found by what it holds ({count_things(placed, 'row')}), and no code confirms it"
        warnings = () if sizes else (told,)
        return BigTableLocation(base, placed, warnings)
    if placed is None and len(sizes) == 1:
        (count,) = sizes
        told = f"the number of rows of the big-page table ({count:,}) is known by nt's own code alone"
        return BigTableLocation(base, count, (told,))
    numbers = " or ".join(f"{size:,}" for size in sorted(sizes)) or "none is known"
    by_place = "no number of rows fits" if placed is None else f"it has {count_things(placed, 'row')}"
    raise TargetError(
        f"big-page table at 0x{base:x}: by where its rows stand {by_place}, by nt's code {numbers}: these do not "
        f"agree. {_HINT}"
    )


def _fit_form(kernel: Kernel, base: int, forms: List[Struct]) -> List[Struct]:
    """The layout with which what is at ``base`` reads as rows that stand in their places: at most one."""
    pieces = list(kernel.target.read_present(base, PAGE_BYTES))
    if not pieces or len(set(pieces[0][1])) < _FEWEST_ROWS:
        pieces = list(kernel.target.read_present(base, _HEAD_BYTES))
    best: List[Struct] = []
    most = 0
    for form in forms:
        runs = iter_row_runs(pieces, base, form.stride, _HEAD_BYTES // form.stride)
        rows = _weigh_rows(_iter_used(runs, form), _SMALLEST_MASK, kernel.target.machine)
        # Of layouts that read the keys alike the longer one is the newer: the unknown kernel is newer than all.
        if rows.fit and (rows.placed, form.stride) > (most, best[0].stride if best else 0):
            best, most = [form], rows.placed
    return best


def _count_rows(kernel: Kernel, base: int, form: Struct) -> Optional[int]:
    """The rows of which the upper half stand where a hash of so many puts them; None if too few are there."""
    best, empty = None, 0
    for bits in range(_MIN_BITS + 1, _MAX_BITS + 1):
        count = 1 << bits
        start = base + count // 2 * form.stride
        pieces = kernel.target.read_present(start, count // 2 * form.stride)
        runs = ((count // 2 + first, rows) for first, rows in iter_row_runs(pieces, start, form.stride, count // 2))
        rows = _weigh_rows(_iter_used(runs, form), count - 1, kernel.target.machine)
        if rows.fit:
            best = count
        else:
            empty += not rows.total
            if best is not None or (rows.total and not rows.plausible) or empty == _HALVES_MISSED:
                break
    return best


def _iter_used(runs: Iterator[Tuple[int, bytes]], form: Struct) -> Iterator[Tuple[int, int, int]]:
    """Number, address and key of each row that is or was in use."""
    for first, data in runs:
        for number, (va, key, *_) in enumerate(form.iter_unpack(data), first):
            if va & ~FREE:
                yield number, va, key


class _Weighed(NamedTuple):
    """Of rows: how many there are, how many could be ones, and how many of these stand where one hash puts them."""

    total: int
    plausible: int
    placed: int

    @property
    def fit(self) -> bool:
        """Whether enough of them are what rows of a big-page table are."""
        is_table = self.plausible >= _PLAUSIBLE_SHARE * self.total
        return is_table and self.placed >= max(_FEWEST_ROWS, _PLACED_SHARE * self.total)


def _weigh_rows(rows: Iterable[Tuple[int, int, int]], mask: int, machine: Machine) -> _Weighed:
    """Count rows as they come: a table may have millions. ``mask``: of a table's number of rows."""
    total = plausible = 0
    placed = [0] * len(_HASHES)
    for row, va, key in rows:
        total += 1
        if not _is_plausible(va, key, machine):
            continue
        plausible += 1
        page = va // PAGE_BYTES & 0xFFFFFFFF
        for number, hash_page in enumerate(_HASHES):
            placed[number] += (row - hash_page(page)) & mask <= _FARTHEST_ROWS
    return _Weighed(total, plausible, max(placed))


def _hash_before_vista(page: int) -> int:
    return page ^ page >> 8 ^ page >> 16 ^ page >> 24


_HASHES = (hash_of_vista, _hash_before_vista)
