"""Which tools crash, hang or are silently wrong on damaged dumps: every page is read, and compared with the truth.

``python -m tests.benchmarks.damageddumps TOOL PLAN`` reads one dump with one tool and prints what became of its pages.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from tabulate import tabulate

from dumps.forge import forge
from tests.benchmarks.pagereaders import READERS
from tests.benchmarks.results import OURS, Report
from tests.benchmarks.rounds import PROJECT

KINDS = (1, 5, 6, 8, 10)
"""Complete, bitmap (full and kernel), kernel ranges, complete ranges (in hex: A)."""

PAGE_BYTES = 4096
HANG_SECONDS = 60

_HEADER_BYTES = 0x2000
_RUN_COUNT, _PAGE_COUNT, _RUNS, _DUMP_TYPE = 0x88, 0x90, 0x98, 0xF98
_PAGES_IN_BITMAP, _PAGES_PRESENT, _FIRST_PAGE, _BITMAP = 0x2030, 0x2028, 0x2020, 0x2038

Damage = Callable[[bytearray, int], None]


def _put(offset: int, value: int, size: int = 8) -> Damage:
    def put(data: bytearray, _kind: int) -> None:
        data[offset : offset + size] = struct.pack("<Q", value)[:size]

    return put


def _by_kind(full: Damage, bitmap: Damage, ranges: Damage) -> Damage:
    def choose(data: bytearray, kind: int) -> None:
        (full if kind == 1 else bitmap if kind in (5, 6, 7) else ranges)(data, kind)

    return choose


def _flip(offset: int, mask: int) -> Damage:
    def flip(data: bytearray, _kind: int) -> None:
        data[offset] ^= mask

    return flip


def _flip_first_marked(data: bytearray, _kind: int) -> None:
    at = next(index for index in range(_BITMAP, len(data)) if data[index])
    data[at] &= data[at] - 1


def _mark_first_unmarked(data: bytearray, _kind: int) -> None:
    at = next(index for index in range(_BITMAP, len(data)) if 0 < data[index] < 0xFF)
    data[at] |= data[at] + 1


def _noise(start: int, stop: int) -> Damage:
    def put(data: bytearray, _kind: int) -> None:
        data[start:stop] = random.Random(7).randbytes(stop - start)

    return put


def _cut(share: float) -> Damage:
    def cut(data: bytearray, _kind: int) -> None:
        del data[int(len(data) * share) :]

    return cut


def _lose_page(data: bytearray, _kind: int) -> None:
    at = len(data) // 2 & -PAGE_BYTES
    del data[at : at + PAGE_BYTES]


def _gain_page(data: bytearray, _kind: int) -> None:
    at = len(data) // 2 & -PAGE_BYTES
    data[at:at] = bytes(PAGE_BYTES)


DAMAGES: Dict[str, Damage] = {
    "none": lambda _data, _kind: None,
    "cut in the middle": _cut(0.5),
    "cut in the header": lambda data, _kind: data.__delitem__(slice(0x1800, None)),
    "a page is lost": _lose_page,
    "a page too many": _gain_page,
    "other type": lambda data, kind: _put(_DUMP_TYPE, 6 if kind == 1 else 1, 4)(data, kind),
    "unknown type": _put(_DUMP_TYPE, 0x77, 4),
    "one page less in the map": _by_kind(_flip(_RUNS + 8, 1), _flip_first_marked, _flip(_HEADER_BYTES + 0x40, 1)),
    "one page more in the map": _by_kind(_flip(_RUNS, 1), _mark_first_unmarked, _flip(_HEADER_BYTES + 0x48, 1)),
    "huge count": _by_kind(_put(_RUN_COUNT, 0xFFFFFFFF, 4), _put(_PAGES_IN_BITMAP, 1 << 63), _noise(0x2008, 0x2010)),
    "map 64 times as long": _by_kind(
        _put(_RUN_COUNT, 64, 4),
        lambda data, kind: _put(_PAGES_IN_BITMAP, struct.unpack_from("<Q", data, _PAGES_IN_BITMAP)[0] * 64)(data, kind),
        _put(0x2020, 1 << 20),
    ),
    "count of zero": _by_kind(_put(_RUN_COUNT, 0, 4), _put(_PAGES_PRESENT, 0), _put(0x2020, 0)),
    "pages begin elsewhere": _by_kind(
        _put(_PAGE_COUNT, 1),
        lambda data, kind: _put(_FIRST_PAGE, struct.unpack_from("<Q", data, _FIRST_PAGE)[0] + PAGE_BYTES)(data, kind),
        _put(0x2028, 0x3000),
    ),
    "noise in the map": _by_kind(_noise(_RUNS, _RUNS + 0x40), _noise(_BITMAP, _BITMAP + 0x40), _noise(0x2040, 0x2080)),
    "noise in the header": _noise(0x80, 0x2C0),
}


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Every damage of every type with every tool once; with ``quick`` of types 1 and 6 only."""
    report = Report([])
    endings: Dict[str, List[str]] = {}
    rows = []
    tools = [tool for tool in READERS if tool != "os.pread" and _is_installed(tool, report.notes)]
    for kind in (1, 6) if quick else KINDS:
        machine = forge("pipo")
        whole = folder / f"{kind}.dmp"
        machine.save(whole, kind=kind)
        digests = {
            frame << 12: _digest(bytes(machine.memory.pages[frame])) for frame in machine.memory.present_frames()
        }
        for name, damage in DAMAGES.items():
            data = bytearray(whole.read_bytes())
            damage(data, kind)
            path = folder / "damaged.dmp"
            path.write_bytes(data)
            plan = folder / "plan.json"
            plan.write_text(json.dumps({"path": str(path), "digests": digests}), encoding="ascii")
            found = {tool: _read(tool, plan) for tool in tools}
            for tool, ending in found.items():
                endings.setdefault(tool, []).append(ending)
            rows.append((f"{kind:X}", name, *found.values()))
    counts = [
        (tool, len(ended), *(sum(ending.startswith(word) for ending in ended) for word in ("crash", "hang", "WRONG")))
        for tool, ended in endings.items()
    ]
    report.tables = [
        tabulate(rows, ("type", "damage", *tools)),
        tabulate(counts, ("tool", "dumps", "crashes", "hangs", "silently wrong")),
    ]
    report.missed += [
        f"{OURS}: {ending}" for ending in endings.get(OURS, ()) if ending.startswith(("crash", "hang", "WRONG"))
    ]
    return report


def _read(tool: str, plan: Path) -> str:
    """What became of one dump with one tool, in a few words."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.damageddumps", tool, str(plan)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode < 0 or not done.stdout.strip():
        return f"crashes ({done.returncode})"
    answer = json.loads(done.stdout.strip().rpartition("\n")[2])
    if "refused" in answer:
        return "refused"
    right, wrong, missing = answer["right"], answer["wrong"], answer["missing"]
    word = "WRONG" if wrong and not answer["told"] else "told" if answer["told"] else "read"
    more = [f"{count} {what}" for count, what in ((wrong, "wrong"), (missing, "not there")) if count]
    return ", ".join((f"{word}: {right} right", *more))


def _is_installed(tool: str, notes: List[str]) -> bool:
    try:
        READERS[tool]()
    except ImportError as error:
        notes.append(f"{tool} is left out: {error}")
        return False
    return True


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def read_all(tool: str, path: str, digests: Dict[str, str]) -> Dict[str, object]:
    """Each page of the truth, read by itself."""
    reader = READERS[tool]()
    try:
        reader.open(path)
        is_told = bool(_find_warnings(reader))
    except Exception as error:  # noqa: BLE001 - each tool has errors of its own
        return {"refused": f"{type(error).__name__}: {error}"[:200]}
    counts: Dict[str, object] = {"right": 0, "wrong": 0, "missing": 0, "told": is_told}
    for address, digest in digests.items():
        ending = _compare(reader, int(address), digest)
        counts[ending] = int(str(counts[ending])) + 1
    return counts


def _compare(reader: object, address: int, digest: str) -> str:
    try:
        (page,) = reader.read([address])  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - the same
        return "missing"
    if not page:
        return "missing"
    return "right" if _digest(bytes(page)) == digest else "wrong"


def _find_warnings(reader: object) -> Tuple[str, ...]:
    """What a tool says of a dump that it took; only ours says anything, and refuses a map that contradicts itself."""
    memory = getattr(reader, "_memory", None)
    return tuple(memory.warnings) if memory is not None else ()


if __name__ == "__main__":
    plan_of_pages = json.loads(Path(sys.argv[2]).read_text(encoding="ascii"))
    print(json.dumps(read_all(sys.argv[1], plan_of_pages["path"], plan_of_pages["digests"])))
