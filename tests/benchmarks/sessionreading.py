"""Read memory through a debugger's session, against bare calls of pykd for the same bytes.

A real pykd runs on Windows only. The time that a fake one takes is replaced by that which the real one was measured
to take (version 0.3.4.15: 70 to 100 MB/s in large pieces, 26 us for a read that fails, 6 us for a question whether
memory is there); all else is our own.
"""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import pytest

from dumps.forge import ForgedMachine, forge
from pykdext.targets.session.session import open_session
from tests.benchmarks.results import OURS, Report, Work, rate_of
from tests.benchmarks.rounds import ContestantError, run_in_turns, time_seconds
from tests.helpers.fakepykd import VALIDITY, FakePykd

BYTES_A_SECOND = 80e6
CALL_SECONDS = 5e-6
FAILURE_SECONDS = 26e-6
QUESTION_SECONDS = 6e-6
COMMAND_SECONDS = 20e-6

RATIO_LIMIT = 1.3
PIECE_BYTES = 0x10000
IMAGE_BYTES = 16 << 20
IMAGE_BASE = 0xFFFFF70000000000
HOLE_EVERY_BYTES, HOLE_BYTES = 1 << 20, 6 * 0x1000
"""Of images some pages are discarded or paged out: here the last ones of each MiB."""

LARGE_TABLES = {"processors": 16, "table_rows": 4097}

_PAGE_BYTES = 0x1000
_BARE = "pykd, 64 KiB a call"

Range = Tuple[int, int]
"""An address and a size in bytes."""


class TimedPykd(FakePykd):
    """``correction_seconds``: what the real one would have taken longer than this one did, all calls together."""

    correction_seconds = 0.0

    def loadWChars(self, offset: int, count: int, phyAddr: bool = False) -> str:
        started = time.perf_counter()
        taken = FAILURE_SECONDS
        try:
            text: str = super().loadWChars(offset, count, phyAddr)
            taken = CALL_SECONDS + 2 * count / BYTES_A_SECOND
        finally:
            self.correction_seconds += taken - (time.perf_counter() - started)
        return text

    def dbgCommand(self, command: str, suppressOutput: bool = True) -> Any:
        started = time.perf_counter()
        answer = super().dbgCommand(command, suppressOutput)
        taken = COMMAND_SECONDS + QUESTION_SECONDS * len(VALIDITY.findall(command))
        self.correction_seconds += taken - (time.perf_counter() - started)
        return answer


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure tag tables, which are whole, and images, which have holes; no option has a meaning here."""
    machine = forge("pipo", build=19041, **LARGE_TABLES)
    size = LARGE_TABLES["table_rows"] * 0x38
    tables = [(machine.addresses[f"table:{number}"], size) for number in range(LARGE_TABLES["processors"])]
    machine.space.store(IMAGE_BASE, random.Random("image").getrandbits(8 * IMAGE_BYTES).to_bytes(IMAGE_BYTES, "little"))
    for end in range(HOLE_EVERY_BYTES, IMAGE_BYTES + 1, HOLE_EVERY_BYTES):
        for address in range(IMAGE_BASE + end - HOLE_BYTES, IMAGE_BASE + end, _PAGE_BYTES):
            machine.memory.omitted.add(machine.space.translate(address) // _PAGE_BYTES)
    image = [(IMAGE_BASE, IMAGE_BYTES)]
    works = [
        _measure("session: tag tables", machine, "bitmap", tables, rounds),
        _measure("session: tag tables, local kernel", machine, "local", tables, rounds),
        _measure("session: 16 MiB of images", machine, "bitmap", image, rounds),
    ]
    return Report(works, ["session: pykd is a fake one, counted with the time of the real one"])


def _measure(name: str, machine: ForgedMachine, system: str, ranges: Sequence[Range], rounds: int) -> Work:
    pieces = list(_iter_pieces(FakePykd.of_machine(machine, system=system), ranges))
    expected = b"".join(machine.read_virtual(address, size) for address, size in pieces)
    work = Work(name, rate_of(len(expected)), ratio_limits={_BARE: RATIO_LIMIT})
    entrants: Dict[str, Callable[[], float]] = {
        OURS: partial(_read_session, machine, system, ranges, expected),
        _BARE: partial(_read_barely, machine, system, pieces, expected),
    }
    for tool, seconds in run_in_turns(entrants, rounds):
        work.add(tool, seconds)
    return work


def _iter_pieces(pykd: FakePykd, ranges: Sequence[Range]) -> Iterator[Range]:
    """The largest pieces that pykd can read of the ranges, whole pages."""
    for address, size in ranges:
        start = page = address & -_PAGE_BYTES
        end = -(-(address + size) // _PAGE_BYTES) * _PAGE_BYTES
        while page <= end:
            is_present = page < end and pykd.isVaRegionValid(page, _PAGE_BYTES)
            if start < page and (not is_present or page - start == PIECE_BYTES):
                yield start, page - start
                start = page
            page += _PAGE_BYTES
            start = start if is_present else page


def _read_session(machine: ForgedMachine, system: str, ranges: Sequence[Range], expected: bytes) -> float:
    """A session opened anew each time, so that nothing is known; opening it is not measured."""
    parts: List[bytes] = []

    def read() -> None:
        for address, size in ranges:
            start = address & -_PAGE_BYTES
            whole = -(-(address + size - start) // _PAGE_BYTES) * _PAGE_BYTES
            parts.extend(data for _, data in session.read_present(start, whole))

    with pytest.MonkeyPatch.context() as monkeypatch:
        pykd = TimedPykd.of_machine(machine, system=system).install(monkeypatch)
        session = open_session()
        pykd.correction_seconds = 0.0
        seconds = time_seconds(read)
        return _checked(seconds + pykd.correction_seconds, parts, expected)


def _read_barely(machine: ForgedMachine, system: str, pieces: Sequence[Range], expected: bytes) -> float:
    pykd = TimedPykd.of_machine(machine, system=system)
    parts: List[bytes] = []

    def read() -> None:
        for address, size in pieces:
            parts.append(pykd.loadWChars(address, size // 2).encode("utf-16-le", "surrogatepass"))

    seconds = time_seconds(read)
    return _checked(seconds + pykd.correction_seconds, parts, expected)


def _checked(seconds: float, parts: Sequence[bytes], expected: bytes) -> float:
    found = b"".join(parts)
    if found != expected:
        raise ContestantError(f"read {len(found):,} bytes that are not the {len(expected):,} that are there")
    return seconds
