"""Inputs as people paste them: each is read with its numbers in its pools, or refused in words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pykdext.errors import RecordFormatError
from pykdext.model import POOL_UNNAMED, PoolKind, TimeOrigin
from pykdext.records.logs import load_log

CASES = Path(__file__).parent / "cases"
NP, P = PoolKind.NONPAGED, PoolKind.PAGED

# Tag, pool, allocations, frees, outstanding, bytes; None: the text does not say.
ROWS = {
    "01-amda-poolused.txt": [("amda", NP, None, None, 5768754, 1938325232), ("amda", P, None, None, 32, 9360)],
    "01b-amda-quoted.txt": [
        ("amda", NP, None, None, 5768754, 1938325232),
        ("IoWI", NP, None, None, 5769999, 646239888),
    ],
    "01e-amda-smart.txt": [("amda", NP, None, None, 5768754, 1938325232)],
    "01f-amda-collapsed.txt": [("amda", NP, None, None, 5768754, 1938325232), ("amda", P, None, None, 32, 9360)],
    "02-fecf-poolused.txt": [("Fecf", NP, None, None, 95, 13680)],
    "04-verbose-umd.txt": [("APpt", P, 109457, 107115, 2342, 255952)],
    "05-poolused-tail.txt": [("NdNp", NP, None, None, 1, 48), ("UlWQ", NP, None, None, 1, 48)],
    "06-ulht-row.txt": [("UlHT", P, 2418, 0, 2418, 633864192)],
    "08-poolmon-vn.txt": [("CM31", P, 169392, 153744, 15648, 74838016)],
    "09-vol2-pooltracker.txt": [("File", NP, 75346601, 75336591, 10010, 3350912)],
    "20-mapped-driver.txt": [("SysR", NP, 912345, 11200, 901145, 8652313744)],
    "22-numeric-tag.txt": [("0045", NP, 61245879, 59877321, 1368558, 4379385600), ("1234", P, 4711, 4700, 11, 1408)],
    "22b-numeric-tag-tsv.txt": [("1e10", NP, 9871230, 9377669, 493561, 505406464)],
    "43-verifier-allocs.txt": [("ebpf", NP, None, None, 2, 0x24)],
    "45-poolfind.txt": [("amda", NP, None, None, 4, 0x18F0 + 0x3F0 + 0x140 + 0x140)],
    "49-pooldumper.txt": [
        ("File", NP, None, None, None, 312345678),
        ("File", P, None, None, None, 12000),
        ("Toke", P, None, None, 981234, 1204512345),
        ("Toke", NP, None, None, 0, 0),
        ("Proc", NP, None, None, 412, 812345),
    ],
    "50-markdown-count-bytes.txt": [("File", NP, None, None, None, 312345678), ("File", P, None, None, None, 12000)],
    "51-vol2-both.txt": [
        ("CM25", P, 4849, 0, 4849, 21708800),
        ("CM25", NP, 0, 0, 0, 0),
        ("AfdE", NP, 5000, 4000, 1000, 640000),
        ("AfdE", P, 700, 300, 400, 409600),
    ],
    "52-sysinformer.csv": [
        ("NtFC", NP, 134000484, 484, 134000000, round(17.97 * 2**30)),
        ("MmSt", P, 2269405, 2095404, 174001, round(148.87 * 2**20)),
    ],
    "53-poolmonx.csv": [("NtFC", NP, 134000484, 484, 134000000, 18843750 << 10)],
    "54-poolmonx-clip.txt": [
        ("NtFC", NP, 134000484, 484, 134000000, 18843750 << 10),
        ("MmSt", P, 2269405, 2095404, 174001, 152438 << 10),
    ],
    "56-formatlist.txt": [("NtFC", NP, 134000484, 484, 134000000, 19296000000), ("EtwB", P, 16, 0, 16, 442368)],
    "58-json.txt": [("EtwB", NP, 6394, 4056, 2338, 163418368)],
    "59-gb-table.txt": [
        ("NtFC", NP, None, None, 134000000, round(17.97 * 2**30)),
        ("Toke", P, None, None, 3708367, round(7.52 * 2**30)),
    ],
    "62-poolmon-quoted.txt": [("CVRP", NP, 9537000, 12508, 9524492, 670000000)],
    "63-poolmon-double-quoted.txt": [("Irp ", NP, 402723, 402000, 723, 300000)],
    "65-timeline.txt": [("NtFC", NP, None, None, None, round(16.1 * 2**30))],
    "66-german-poolmon.txt": [("NtFC", NP, 134201884, 484, 134201400, 19325001600)],
    "67-german-md.txt": [
        ("NtFC", NP, 134201884, 484, 134201400, round(18429.8 * 2**20)),
        ("MmSt", P, 2269405, 2095404, 174001, round(148.9 * 2**20)),
    ],
    "68-chinese.txt": [("0045", NP, 61245879, 59877321, 1368558, 4379385600)],
    "69-fullwidth-digits.txt": [("0045", NP, 61245879, 59877321, 1368558, 4379385600)],
    "69b-gbk.txt": [("0045", NP, 61245879, 59877321, 1368558, 4379385600)],
    "69c-cp1251.txt": [("EtwB", NP, 6394, 4056, 2338, 163418368)],
    "69e-russian-nbsp.txt": [("CVRP", NP, 9537000, 12508, 9524492, 670000000)],
    "70-xperf-pool.csv": [
        ("NDnd", NP, 12345, None, 100, 50 << 10),
        ("amda", NP, 998877, None, 997000, 311562 << 10),
        ("CM25", P, 4849, None, 4849, 21200 << 10),
    ],
    "73-lists.txt": [("Irp ", NP, None, None, 10862955, 14280000000)],
    "75-codex-md.txt": [
        ("File", NP, None, None, 11626897, round(4.3 * 2**30)),
        ("IoFE", NP, None, None, 11600112, round(1.55 * 2**30)),
        ("Toke", P, None, None, 1208367, round(2.5 * 2**30)),
        ("SeAt", P, None, None, 5081954, 522 << 20),
    ],
    "76-poolused-2-and-4.txt": [("Cont", NP, None, None, 1094, 6525216000), ("CM31", P, None, None, 19797, 91705344)],
    "80-strg.txt": [("Strg", P, 698765432, 391234567, 307530865, 21527160550)],
    "82-npbl-mdl.txt": [("Mdl ", NP, 98123456, 94061720, 4061736, 584889984)],
    "86-pp-blank-tag.txt": [("Pp  ", P, 61245879, 877321, 60368558, 1931793856)],
    "87-mail-wrapped.txt": [("NVRM", NP, 8123456, 1200, 8122256, 6497804800)],
    "88-poolused-wrapped.txt": [("amda", NP, None, None, 5768754, 1938325232)],
    "89-nbsp-poolmon.txt": [("Mdl ", NP, 2492040, 176, 2491864, 438568064)],
    "89b-utf16-ps.txt": [("Mdl ", NP, 2492040, 176, 2491864, 438568064)],
    "89c-discord.txt": [("File", NP, 13789939, 13704656, 85283, 13203912)],
}

PROSE = (
    "The machine has RAM: 32 GB and Disk: 500 GB, the pool grew to 14 GB over night.\nCPU: 8 cores\nRAM: 32 GB\n",
    "- Step 1: 12 blocks of text\n- Step 2: read `pool` tags\n",
    "Irp and File are large, says poolmon; more tomorrow.\n",
    "Tag: what is it? 14 GB are gone.\n",
    "Tag sanity: 4 bytes of letters.\n",
)


def last(name):
    return load_log(str(CASES / name))[-1]


@pytest.mark.parametrize("name", ROWS)
def test_numbers_and_pools(name):
    rows = {row.tag.text: row for row in last(name).tags}
    for tag, pool, *numbers in ROWS[name]:
        usage = rows[tag].usage(pool)
        assert [usage.allocs, usage.frees, usage.outstanding, usage.bytes] == numbers


@pytest.mark.parametrize("name", sorted(ROWS))
def test_no_pool_is_guessed_and_no_rows_are_added_up(name):
    warnings = last(name).warnings
    assert POOL_UNNAMED not in warnings
    assert not any("repeated a tag" in warning for warning in warnings)


@pytest.mark.parametrize("text", PROSE)
def test_prose_without_notes_of_tags_is_refused_in_words(text, tmp_path):
    path = tmp_path / "mail.txt"
    path.write_text(text)
    with pytest.raises(RecordFormatError, match=r"found text that begins"):
        load_log(str(path))


def test_notes_of_tags_keep_pools_and_totals():
    pipes = last("11-npfr-list.txt")
    assert [(str(row.tag), row.nonpaged.outstanding, row.nonpaged.bytes) for row in pipes.tags] == [
        ("NpFr", 56_180_000, round(4.2 * 2**30)),
        ("Irp ", 56_180_000, round(19.3 * 2**30)),
    ]
    assert pipes.memory.nonpaged_bytes == round(26.3 * 2**30)
    bullets = last("12-codex-bullets.txt")
    held = {str(row.tag): (row.nonpaged.bytes, row.paged.bytes) for row in bullets.tags}
    assert held["SeAt"] == (0, 522 << 20) and held["File"] == (round(4.3 * 2**30), 0)
    assert (bullets.memory.nonpaged_bytes, bullets.memory.paged_bytes) == (round(7.6 * 2**30), round(5.1 * 2**30))
    counts = {str(row.tag): row.nonpaged for row in last("64-wc-lines.txt").tags}
    assert (counts["WCfn"].allocs, counts["WCfn"].frees, counts["WCfn"].outstanding) == (878, 878, 0)
    assert counts["WCsc"].bytes is None


@pytest.mark.parametrize(
    ("name", "tag", "ends", "hours"),
    [
        ("13-toke-arrows.txt", "Toke", (round(559.2 * 2**20), round(801.99 * 2**20)), 80.083 / 60),
        ("59b-md-ranges.txt", "NtFC", (round(0.6 * 2**30), round(19.6 * 2**30)), None),
    ],
)
def test_what_was_and_what_became_are_two_states(name, tag, ends, hours):
    before, after = load_log(str(CASES / name))
    usages = [row.nonpaged.bytes for state in (before, after) for row in state.tags if str(row.tag) == tag]
    assert tuple(usages) == ends
    if hours:
        assert abs((after.taken_at - before.taken_at) / timedelta(hours=1) - hours) < 0.01


def test_a_column_for_each_state_is_a_series(tmp_path):
    path = tmp_path / "states.csv"
    path.write_text(
        "Tag;Pool;12.06.2026 08:00;12.06.2026 12:00;12.06.2026 16:00\n"
        "NVRM;Nonp;120,5 MB;1,2 GB;3,4 GB\nMmSt;Paged;148,9 MB;148,9 MB;150 MB\n"
    )
    states = load_log(str(path))
    assert [state.taken_at.hour for state in states] == [8, 12, 16]
    assert [state.tags[0].nonpaged.bytes for state in states] == [
        round(size * 2**20) for size in (120.5, 1228.8, 3481.6)
    ]
    path.write_text(
        "Nonpaged pool\n\nTag   Allocs before  Allocs after  Bytes before  Bytes after  Diff\n"
        "NVRM  1,234          8,123,456     1,000,000     6,497,804,800  +6 GB\n"
    )
    usages = [state.tags[0].nonpaged for state in load_log(str(path))]
    assert [(usage.allocs, usage.outstanding, usage.bytes) for usage in usages] == [
        (1234, None, 1_000_000),
        (8_123_456, None, 6_497_804_800),
    ]


@pytest.mark.parametrize(
    ("name", "alarms"),
    [
        (
            "46-vm-failed.txt",
            [
                "!vm says: 67968 kernel stack PTE allocations have failed",
                "!vm says: 247785920 kernel stack growth attempts have failed",
            ],
        ),
        (
            "47-vm-escaped-118gb.txt",
            [
                "!vm says: Excessive NonPaged Pool Usage",
                "a nonpaged pool of 113 GB exceeds the 8.00 GB of physical memory: the number cannot be right",
            ],
        ),
    ],
)
def test_alarms_and_impossible_numbers(name, alarms):
    assert [warning for warning in last(name).warnings if not warning.startswith("the text holds")] == alarms


@pytest.mark.parametrize("locale", ["batch", "de", "debatch", "dep", "iso", "us", "us_amb", "zh"])
def test_dates_of_consoles(locale):
    snapshots = load_log(str(CASES / f"77-series-{locale}.txt"))
    zone = timezone(timedelta(hours=2)) if locale == "iso" else timezone.utc
    day = 7 if locale == "us_amb" else 13
    expected = [datetime(2026, 6, day, 8 + hour, 0, 1, tzinfo=zone) for hour in range(10)]
    assert [snapshot.taken_at for snapshot in snapshots] == expected
    assert {snapshot.time_from for snapshot in snapshots} == {TimeOrigin.HEADER}


@pytest.mark.parametrize(
    ("name", "nonpaged", "hours"),
    [
        ("40-typeperf.csv", [812345344, 2912345088, 5012344832, 7112344576, 9212344320], 1),
        ("41-getcounter.txt", [812345344, 1162345344], 1 / 6),
    ],
)
def test_counters_of_totals(name, nonpaged, hours):
    snapshots = load_log(str(CASES / name))
    assert [snapshot.memory.nonpaged_bytes for snapshot in snapshots] == nonpaged
    assert {snapshot.host.lower() for snapshot in snapshots} == {"srv01"}
    span = snapshots[-1].taken_at - snapshots[0].taken_at
    assert round(span / timedelta(hours=1), 2) == round(hours * (len(nonpaged) - 1), 2)


def test_typeperf_names_its_zone():
    first = load_log(str(CASES / "40-typeperf.csv"))[0]
    assert first.taken_at == datetime(2026, 6, 12, 7, 0, 0, tzinfo=timezone.utc)
    assert first.memory.available_bytes == 12034 << 20
    assert not any("zone" in warning for warning in first.warnings)


def test_blocks_and_callers_are_kept():
    found = last("45-poolfind.txt")
    assert [(block.address, block.size_bytes, block.pool) for block in found.blocks][:2] == [
        (0xFFFFDA0FF9791000, 0x18F0, NP),
        (0xFFFFDA0FF7CE01D0, 0x3F0, NP),
    ]
    verified = last("43-verifier-allocs.txt")
    (driver,) = verified.stated_drivers
    assert (driver.module, driver.told_by) == ("ebpfcore.sys", "!verifier")
    assert driver.text.endswith("ebpfcore!ebpf_allocate+0x21")


GRID = "┌──────┬──────┐\n│ Tag  │ {} │\n├──────┼──────┤\n│ NVRM │ {} │\n└──────┴──────┘\n"
STAMPED = """\
 kd> !poolused 2
   Sorting by NonPaged Pool Consumed

               NonPaged                  Paged
 Tag     Allocs         Used     Allocs         Used

 NVRM   8122256   6497804800          0            0	UNKNOWN pooltag 'NVRM', please update pooltag.txt
 TOTAL  8122256   6497804800     200000    163840000
"""
PASTES = {
    "a cell a line": "Look:\n\nTag\nType\nAllocs\nFrees\nDiff\nBytes\nPer Alloc\n"
    "NVRM\nNonp\n8123456\n1200\n8122256\n6497804800\n800\nIrp\nNonp\n9\n4\n5\n600\n120\nThanks!\n",
    "lakhs and crores": "Tag   Type   Diff       Bytes\nNVRM  Nonp   81,22,256  6,49,78,04,800\n",
    "drawn lines": GRID.format("Pool │ Blocks  │ Bytes", "Nonp │ 8122256 │ 6497804800"),
    "times of a terminal": "".join(f"[10:22:31]{line}\n" for line in STAMPED.splitlines()),
    "YAML": "- tag: Irp\n  pool: nonpaged\n  bytes: 600\n- tag: NVRM\n  pool: nonpaged\n  blocks: 8122256\n"
    "  bytes: 6497804800\n",
    "HTML entities": "<pre>Tag&nbsp; Type&nbsp; Diff&nbsp; Bytes<br>NVRM&nbsp;Nonp&nbsp;8122256&nbsp;6497804800</pre>",
    "apostrophes": "| Tag | Typ | Diff | Bytes |\n|---|---|---|---|\n| NVRM | Nonp | 8’122’256 | 6’497’804’800 |\n",
}


@pytest.mark.parametrize("form", PASTES)
def test_other_forms_in_which_tables_are_pasted(form, tmp_path):
    path = tmp_path / "paste.txt"
    path.write_text(PASTES[form], encoding="utf-8")
    rows = {row.tag.text: row.nonpaged for row in load_log(str(path))[-1].tags}
    assert (rows["NVRM"].outstanding, rows["NVRM"].bytes) == (8_122_256, 6_497_804_800)


TOTALS = {
    "Task Manager": "Available\t1.6 GB\nCommitted\t30.1/36.0 GB\nPaged pool\t612 MB\nNon-paged pool\t11.8 GB\n",
    "Task Manager, lines": "Paged pool\n612 MB\nNon-paged pool\n11.8 GB\n",
    "German": "Ausgelagerter Pool  612 MB\nNicht ausgelagerter Pool  11,8 GB\n",
    "WMI": "PoolNonpagedBytes  PoolPagedBytes\n-----------------  --------------\n12670153523        641728512\n",
    "typeperf": 'C:\\>typeperf\n"(PDH-CSV 4.0)","\\\\S\\Memory\\Pool Nonpaged Bytes","\\\\S\\Memory\\Pool Paged Bytes"'
    '\n"06/12/2026 08:00:00.123","12670153523.0","641728512.0"\nExiting, please wait...\n',
    "Get-Counter": "Timestamp             Path                            CookedValue\n"
    "6/12/2026 8:00:00 AM  \\\\s\\memory\\pool nonpaged bytes  12670153523\n"
    "6/12/2026 8:00:00 AM  \\\\s\\memory\\pool paged bytes     641728512\n",
}


@pytest.mark.parametrize("form", TOTALS)
def test_totals_of_the_pools_without_tags(form, tmp_path):
    path = tmp_path / "paste.txt"
    path.write_text(TOTALS[form], encoding="utf-8")
    (state,) = load_log(str(path))
    assert abs(state.memory.nonpaged_bytes - 11.8 * 2**30) < 2**20
    assert state.memory.paged_bytes == 612 << 20
    assert not any("cannot be read" in warning for warning in state.warnings)
