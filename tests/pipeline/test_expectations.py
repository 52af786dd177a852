"""What a reader concludes from each case, as its ``*.expect.json`` says it, against the whole report.

The files are read as they are: numbers by row and pool, warnings word by word, and of the sentences the tags, sizes,
files, grades and terms that they name, and whatever they quote behind ``no``, ``not`` or ``never``, which must not be
said. A key that no check knows is a failure.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

import pytest

from pykdext.cli.main import main
from pykdext.model import PoolKind
from pykdext.records.logs import load_log
from tests.helpers.poolstates import CASES

EXPECTATIONS = sorted((CASES.parent / "expected").glob("*.expect.json"))
SIDES = {"np": PoolKind.NONPAGED, "p": PoolKind.PAGED, "nonpaged": PoolKind.NONPAGED, "paged": PoolKind.PAGED}
COUNTS = {"allocs": "allocs", "frees": "frees", "blocks": "outstanding", "bytes": "bytes"}
TERMS = ("looks like a leak", "any driver", "possible", "part of Windows", "object", "victim", "shared")
UNITS = {"B": 0, "KB": 10, "MB": 20, "GB": 30}
REMARKS = {"why", "titles", "reads", "or", "expect"}
"""Words for the reader of the file; what they promise is checked by the numbers beside them."""

FORBIDDEN = re.compile(r'\b(?:no|not|never|instead of)\s+((?:"[^"]+"(?:\s*(?:,|/|or|nor)\s*(?:no |not )?)?)+)', re.I)
SIZE = re.compile(r"\b\d[\d.]*\s?(?:[KMG]B|%)")
DRIVER = re.compile(r"\b\w+\.sys\b", re.IGNORECASE)
POOL_CELL = re.compile(r"^\s*(\S{1,4})[\s;,|]+(Nonp|Paged)\b", re.MULTILINE)


class Case:
    """An input, what it holds by the readers, and the report on it."""

    def __init__(self, path, capsys, folder):
        self.name = path.name.partition(".expect")[0]
        (self.path,) = CASES.glob(f"{self.name}.*")
        self.snapshots = load_log(str(self.path))
        self._capsys, self._folder = capsys, folder

    def report(self, *options):
        """What is printed, in one line, and beside it as JSON."""
        main([str(self.path), "--width", "100", *options])
        printed = " ".join(self._capsys.readouterr().out.split())
        main([str(self.path), "--format", "json", *options])
        return printed, json.loads(self._capsys.readouterr().out)

    def say(self, text):
        """The reports that a sentence is about; with a tag list of the user's, too, where it says so."""
        lists = [[]]
        if "--pooltags" in text:
            tags = self._folder / "pooltag.txt"
            tags.write_text("UlHT - http.sys - Hash table\nAfdB - afd.sys - Data buffer\n", encoding="ascii")
            lists.append(["--pooltags", str(tags)])
        return [self.report(*options) for options in lists]


@pytest.mark.parametrize("path", EXPECTATIONS, ids=lambda path: path.name.partition(".")[0])
def test_a_case_gives_what_a_reader_concludes(path, capsys, tmp_path):
    expected = json.loads(path.read_text(encoding="utf-8"))
    case = Case(path, capsys, tmp_path)
    checks = dict(CHECKS)
    tags = {str(row.tag).strip() for row in case.snapshots[-1].tags}
    for key, value in expected.items():
        if key in tags:
            _check_pool(case, key, value)
        elif key not in REMARKS:
            checks.pop(key)(case, value)


def _check_rows(case, rows):
    by_tag = {str(row.tag).strip(): row for row in case.snapshots[-1].tags}
    for tag, facts in rows.items():
        row, pool = by_tag[tag], SIDES.get(facts.get("pool", ""))
        pool = pool or next(
            p for p in PoolKind if (row.usage(p).bytes or 0) == max(row.usage(q).bytes or 0 for q in PoolKind)
        )
        for key, value in facts.items():
            _check_fact(case, row, pool, key, value)


def _check_fact(case, row, pool, key, value):
    side, _, count = key.partition("_")
    if key == "pool":
        assert row.usage(SIDES[value]).bytes
    elif key in ("driver", "driver_column"):
        named = {item.module.lower() for item in case.snapshots[-1].stated_drivers if item.tag == row.tag}
        assert value.split()[0].lower() in named
    elif key in SIDES:
        assert value is None
        assert not row.usage(SIDES[key]).bytes
        assert not row.usage(SIDES[key]).outstanding
    else:
        usage, name = (row.usage(SIDES[side]), count) if side in SIDES else (row.usage(pool), key)
        is_rounded = name.endswith("_about")
        found = getattr(usage, COUNTS[name[: -len("_about")] if is_rounded else name])
        if is_rounded:
            number, unit = value.split()
            digits = len(number.partition(".")[2])
            assert abs(found / (1 << UNITS[unit]) - float(number)) <= 0.51 * 10**-digits
        else:
            assert found == value


def _check_pool(case, tag, said):
    (row,) = (row for row in case.snapshots[-1].tags if str(row.tag).strip() == tag)
    right = SIDES[said.split()[0]]
    assert row.usage(right).bytes
    assert not any(row.usage(pool).bytes for pool in PoolKind if pool is not right)


def _check_cells(case, _):
    cells = POOL_CELL.findall(case.path.read_text(encoding="utf-8"))
    rows = {str(row.tag).strip(): row for row in case.snapshots[-1].tags}
    assert cells
    for tag, cell in cells:
        assert rows[tag].usage(PoolKind.NONPAGED if cell == "Nonp" else PoolKind.PAGED).bytes


def _check_sentence(case, text):
    """What is named before anything is ruled out stands in the report, and what is ruled out does not."""
    first = FORBIDDEN.search(text)
    wanted = text[: first.start()] if first else text
    wanted = re.split(r"[;:,]?\s*\b(?:not|never)\b", wanted)[0]
    tags = {str(row.tag).strip() for row in case.snapshots[-1].tags}
    for printed, document in case.say(text):
        whole = f"{printed} {json.dumps(document)}"
        for phrase in _ruled_out(text):
            assert phrase.lower() not in whole.lower()
        named = [*SIZE.findall(wanted), *DRIVER.findall(wanted), *(term for term in TERMS if term in wanted)]
        named += [word for word in re.findall(r"\w+", wanted) if word in tags]
        for word in named:
            assert word in whole, f"{word!r} is not said"


def _check_warnings(case, warnings):
    if isinstance(warnings, str):
        _check_sentence(case, warnings)
        return
    printed, _ = case.report()
    shown = re.sub(r"\.0+(?= [KMGT]B)", "", printed)
    for warning in warnings:
        assert warning in shown
        assert shown.count(warning) == 1


def _ruled_out(text):
    return [phrase for found in FORBIDDEN.finditer(text) for phrase in re.findall(r'"([^"]+)"', found[1])]


def _check_never(case, text):
    _check_sentence(case, f"never {text}")


def _check_samples(case, count):
    assert len(case.snapshots) == count


def _check_first(case, moment):
    assert case.snapshots[0].taken_at == datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)


def _check_form(case, form):
    assert form in case.snapshots[-1].source.kind


def _check_command(case, command):
    """``poolleak diff 78a 78b``: no rate by times that may be those of a copy."""
    program, verb, *names = command.split()
    files = [str(next(CASES.glob(f"{name}*.txt"))) for name in names]
    assert program == "poolleak"
    main([verb, *files])
    assert not re.search(r"\d \w+ per hour", case._capsys.readouterr().out)
    main([verb, *files, "--format", "json"])
    found = json.loads(case._capsys.readouterr().out)
    assert found["grown"]
    assert {item["bytes_per_hour"] for item in found["grown"]} == {None}


def _check_alternatives(case, words):
    """``read as ASCII digits, or refused``: the first is what is done."""
    assert "ASCII" in words
    assert all(usage.bytes for row in case.snapshots[-1].tags for usage in [row.nonpaged])


CHECKS = {
    "rows": _check_rows,
    "verdict": _check_sentence,
    "next_steps": _check_sentence,
    "warnings": _check_warnings,
    "never": _check_never,
    "samples": _check_samples,
    "first": _check_first,
    "form": _check_form,
    "with": _check_command,
    "either": _check_alternatives,
    "pool": _check_cells,
}


def test_every_file_is_checked():
    assert len(EXPECTATIONS) >= 20


def test_blocks_that_a_text_lists_are_shown(capsys):
    assert main(["blocks", "amda", str(CASES / "45-poolfind.txt"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(size["size_bytes"] for size in found["sizes"]) == [0x140, 0x3F0, 0x18F0]
    assert main(["blocks", "amda", str(CASES / "31-irp.txt")]) == 3
    assert "source without memory" in capsys.readouterr().err
