"""Runs cases through the command line in this process, and judges how each one ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import signal
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Union

from pykdext.cli.main import main
from tests.fuzz import dumps, files, imageparts, machineimages

TARGETS = {
    "headers": dumps.headers,
    "runs": dumps.runs,
    "bitmap": dumps.bitmaps,
    "opposite": dumps.opposite_bits,
    "files": dumps.files,
    "cuts": dumps.cuts,
    "page tables": dumps.page_tables,
    "structures": dumps.structures,
    "images": dumps.images,
    ".pdata": imageparts.unwind_data,
    "version resource": imageparts.version_resources,
    "debug directory": imageparts.debug_directories,
    "tag tables": dumps.table_pages,
    "rows": dumps.rows_of_tables,
    "archives": dumps.archives,
    "memory images": machineimages.memory_images,
    "logs": files.logs,
    "series": files.series,
    "tag lists": files.tag_lists,
    "driver files": files.driver_files,
    "PDB": files.pdb_files,
    "PDB streams": imageparts.pdb_streams,
    "ISF": files.isf_files,
    "stores": files.stores,
    "symbol servers": files.symbol_servers,
}

BAD = ("traceback", "odd status", "hang", "silence", "control character", "left behind", "wrong number", "wrong proof")
"""What must never be counted."""

HANG_SECONDS = 120
"""No case needs a tenth of it, on however slow a machine."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


MAX_MEMORY_BYTES = 4 << 30
"""Of address space: a case that wants more is a traceback, and does not take the machine with it."""


def limit_memory() -> None:
    """Let this process have no more memory than that."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


class Hang(BaseException):
    """The case takes too long; no error of the tool, so that nothing catches it."""


@dataclass
class Finding:
    """One bad ending."""

    kind: str
    target: str
    seed: Union[int, str]
    damage: str
    words: List[str]
    detail: str


@dataclass
class Tally:
    """What was counted."""

    cases: Counter = field(default_factory=Counter)
    runs: Counter = field(default_factory=Counter)
    statuses: Counter = field(default_factory=Counter)
    findings: List[Finding] = field(default_factory=list)
    worst_cpu_seconds: float = 0.0

    @property
    def bad(self) -> Counter:
        return Counter(finding.kind for finding in self.findings)


class _Screen(io.TextIOWrapper):
    """A standard stream in memory."""

    def __init__(self):
        super().__init__(io.BytesIO(), "utf-8", newline="", write_through=True)

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode("utf-8", "replace")


def run_case(target: str, seed: int, tally: Tally) -> None:
    """Make the case of a seed, run its commands, and note what went wrong."""
    try_case(target, random.Random(f"{target} {seed}"), tally, seed)


def try_case(target: str, chance: random.Random, tally: Tally, seed: Union[int, str]) -> None:
    """The same of a case that ``chance`` makes; ``seed``: what makes it again."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name, "input")
        folder.mkdir()
        temporary = Path(name, "tmp")
        temporary.mkdir()
        case = TARGETS[target](chance, folder)
        tally.cases[target] += 1
        cache = str(Path(name, "cache")) if chance.random() < 0.3 else "off"
        server = files.serving(case.answer) if getattr(case, "answer", None) else contextlib.nullcontext("")
        with server as address, _surroundings(temporary, cache):
            for command in case.commands:
                before = _list(folder)
                words = [word.replace("SERVER", address) for word in command]
                for kind, detail in _run(words, case, tally):
                    tally.findings.append(Finding(kind, target, seed, case.damage, words, detail))
                left = [item for item in _list(folder) - before if "cache" not in item] + os.listdir(temporary)
                if left:
                    tally.findings.append(Finding("left behind", target, seed, case.damage, words, str(left[:3])))
                tally.runs[target] += 1


def _list(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@contextlib.contextmanager
def _surroundings(temporary, cache):
    saved = dict(os.environ)
    os.environ.update(TMPDIR=str(temporary), POOLLEAK_CACHE=cache)
    for name in ("_NT_SYMBOL_PATH", "http_proxy", "HTTP_PROXY"):
        os.environ.pop(name, None)
    tempfile.tempdir = None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)
        tempfile.tempdir = None


def _run(words, case, tally):
    """Run one command; what was bad about it, as (kind, detail)."""
    out, err = _Screen(), _Screen()
    status, crash = None, ""
    started = resource.getrusage(resource.RUSAGE_SELF)
    previous = signal.signal(signal.SIGALRM, _raise_hang)
    signal.alarm(HANG_SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    except Hang:
        yield "hang", traceback.format_exc(limit=-3).replace("\n", " | ")
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 - it is what is counted
        crash = traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    ended = resource.getrusage(resource.RUSAGE_SELF)
    tally.worst_cpu_seconds = max(tally.worst_cpu_seconds, ended.ru_utime - started.ru_utime)
    tally.statuses[status] += 1
    if crash or "Traceback" in err.text + out.text:
        yield "traceback", (crash or err.text[-600:]).replace("\n", " | ")
        return
    if status is not None and (status not in (0, 1, 3) or (case.is_whole and status and words[0] == "used")):
        yield "odd status", f"{status}: {err.text[-300:]}"
    if status in (1, 3) and not (out.text.strip() or err.text.strip()):
        yield "silence", f"status {status}"
    if status == 3 and len(err.text.splitlines()) > 1:
        yield "odd status", f"{len(err.text.splitlines())} lines: {err.text[:300]}"
    if "csv" not in words and (found := _CONTROLS.search(out.text + err.text)):
        yield "control character", repr(found.group())
    if status in (0, 1) and "json" in words:
        yield from _judge(json.loads(out.text), status, words, case)


def _judge(document, status, words, case):
    """What a report says against the truth."""
    is_told = bool(document.get("warnings")) and not case.is_strict
    if case.numbers is not None and words[0] == "used" and status == 0 and not is_told:
        found = {row["hex"]: row for row in document["tags"]}
        known = case.numbers.keys() | found.keys()
        if document["coverage"]["expansion_table"] != "read":  # it says itself that these may be missing
            known -= {tag.hex() for tag in _IN_EXPANSION_TABLE} - found.keys()
        wrong = sorted(key for key in known if _differs(found.get(key), case.numbers.get(key)))
        if wrong:
            yield "wrong number", f"{len(wrong)} tags of {len(case.numbers)}, {bytes.fromhex(wrong[0])!r}"
    if case.owners is not None and words[0] in ("analyze", "find"):
        for row in document.get("suspects", document.get("tags", ())):
            known = case.owners.get(row["hex"], ())
            for owner in row["owners"]:
                if owner["confidence"] == "proven" and owner["module"].lower() not in known:
                    yield "wrong proof", f"{row['tag']} of {owner['module']}, true are {known}"


def _differs(row, truth) -> bool:
    if row is None or truth is None:
        numbers = truth if row is None else [row[pool][name] for pool in ("nonpaged", "paged") for name in _COUNTERS]
        return any(numbers)
    found = [row[pool][name] for pool in ("nonpaged", "paged") for name in _COUNTERS]
    return tuple(number or 0 for number in found) != tuple(truth)


_COUNTERS = ("allocs", "frees", "bytes")
_IN_EXPANSION_TABLE = (b"Xp01", b"Xp02")
"""Tags that the forge puts into the table of those that found no room."""


def _raise_hang(*_):
    raise Hang


def render(tally: Tally) -> str:
    """The figures as a table, and each finding."""
    by_target: Dict[str, Counter] = {name: Counter() for name in TARGETS}
    for finding in tally.findings:
        by_target[finding.target][finding.kind] += 1
    lines = [f"{'target':<16}{'cases':>7}{'runs':>7}" + "".join(f"{kind:>18}" for kind in BAD)]
    lines += [
        f"{name:<16}{tally.cases[name]:>7}{tally.runs[name]:>7}"
        + "".join(f"{by_target[name][kind]:>18}" for kind in BAD)
        for name in TARGETS
        if tally.cases[name]
    ]
    lines.append(
        f"{'all':<16}{sum(tally.cases.values()):>7}{sum(tally.runs.values()):>7}"
        + "".join(f"{tally.bad[kind]:>18}" for kind in BAD)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    lines.append(f"statuses {dict(tally.statuses)}; peak {peak} MB; longest run {tally.worst_cpu_seconds:.1f} s of CPU")
    lines += [f"{f.kind}: {f.target} {f.seed}: {f.damage}: {' '.join(f.words)}: {f.detail}" for f in tally.findings]
    return "\n".join(lines)
