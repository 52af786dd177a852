"""Where processors' tag tables are missing, what tags hold is not known: no answer states it as a fact."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.growth import compare_snapshots, follow_series, may_be_missing_frees, rank_suspects
from pykdext.model import ExpansionState, PoolKind, PoolUsage, Role, TableCoverage
from pykdext.model.fleet import Answer, DumpInput, DumpStatus
from pykdext.pipeline.sources import load_states
from pykdext.pipeline.verdict import judge_state
from pykdext.records.snapshotfile import render_snapshot_json
from pykdext.report.jsondoc import render_report_json
from pykdext.store.batches import open_store
from tests.helpers.builders import owned, row, snapshot, usage

NOT_KNOWN = "what tags hold is not known"
LACKING = f"3 of 4 processor tables could be read: {NOT_KNOWN}, for any processor may free what another allocates."
GB = 1 << 30
START = datetime(2024, 11, 12, 3, 41, tzinfo=timezone.utc)


def covered(tables_read, tables=4, rows=None, rows_of_each=1025):
    rows_read = tables_read * rows_of_each if rows is None else rows
    return TableCoverage(tables_read, tables, rows_read, tables * rows_of_each, ExpansionState.ABSENT)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """``whole`` and ``lost`` (of the table of processor 2) states of a machine without and with a leak."""
    folder = tmp_path_factory.mktemp("dumps")
    paths = {}
    for scenario in ("quiet", "pipo"):
        for name, lost in (("whole", ()), ("lost", (2,))):
            machine = forge(scenario, processors=4)
            machine.filter_pages(without_tables_of=lost)
            paths[name, scenario] = str(folder / f"{name}-{scenario}.dmp")
            machine.save(paths[name, scenario])
    return paths


def answer(capsys, *words):
    status = main([str(word) for word in words])
    return status, capsys.readouterr().out


@pytest.mark.parametrize("form", ["text", "json", "html", "dml"])
def test_every_form_of_the_verdict_says_first_that_counts_are_missing(form, dumps, capsys):
    for scenario in ("quiet", "pipo"):
        status, text = answer(capsys, "analyze", dumps["lost", scenario], "--format", form)
        plain = " ".join(text.replace("<b>", "").replace("</b>", "").split())
        assert status == 1 and LACKING in plain
        assert ("looks like a leak" in plain) is (scenario == "pipo")
        assert ("unless what is missing counts its frees" in plain) is (scenario == "pipo")
        assert ("No tag is called a leak by the rest, and none is cleared." in plain) is (scenario == "quiet")
        assert "Nothing stands out" not in plain and "What the pools hold" not in plain
    status, text = answer(capsys, "analyze", dumps["whole", "quiet"], "--format", form)
    assert status == 0 and NOT_KNOWN not in " ".join(text.split())


def test_shares_rates_and_totals_are_null(dumps, capsys):
    document = json.loads(answer(capsys, "analyze", dumps["lost", "pipo"], "--format", "json")[1])
    assert [item["tag"] for item in document["suspects"]] == ["Pipo"]
    for item in (*document["suspects"], *document["largest"]):
        assert item["share"] is None and item["bytes_per_hour_since_boot"] is None
    counted, _ = forge("pipo", processors=4).truth.limits["nonpaged"]
    pools = document["pools"]
    assert (pools["nonpaged"]["used_bytes"], pools["nonpaged"]["by_tags"]) == (counted, False), "the kernel's own count"
    assert pools["paged"]["used_bytes"] is None
    assert document["groups"] == []
    kept = json.loads(render_snapshot_json(load_states(dumps["lost", "pipo"])[0]))
    assert kept["totals"] == {"nonpaged_bytes": None, "paged_bytes": None}


def test_tables_and_searches_say_so(dumps, capsys):
    for words in (("used",), ("used", "--view", "poolused"), ("find", "Pipo")):
        said = " ".join(answer(capsys, *words, dumps["lost", "pipo"])[1].split())
        assert LACKING in said
        assert ("all tags: not known" in said) is (words[0] == "used")
        whole = " ".join(answer(capsys, *words, dumps["whole", "pipo"])[1].split())
        assert NOT_KNOWN not in whole and "all tags: not known" not in whole


ROW = struct.Struct("<IIQQQQQQ")
"""Of 64-bit tables of build 19041: key, bytes, allocations and frees of the nonpaged, then of the paged pool."""


def add_up_tables(machine, numbers):
    """(blocks, bytes) of each tag and pool by the tables of some processors, below zero where more was freed there."""
    sums = {}
    for number in numbers:
        data = machine.read_virtual(machine.addresses[f"table:{number}"], machine.table_bytes)
        for key, _, *counters in ROW.iter_unpack(data[: len(data) // ROW.size * ROW.size]):
            for pool, (used, allocs, frees) in zip(PoolKind, (counters[:3], counters[3:])):
                held = sums.setdefault((struct.pack("<I", key & 0x7FFFFFFF), pool), [0, 0])
                held[0] += allocs - frees
                held[1] += used
    return {place: tuple((value + 2**63) % 2**64 - 2**63 for value in held) for place, held in sums.items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_sums_below_zero_are_null_and_no_table_lists_them_as_huge(seed, tmp_path, capsys):
    machine = forge("quiet", processors=4, seed=seed)
    truth = add_up_tables(machine, (0, 2, 3))
    machine.omit(machine.addresses["table:1"], machine.table_bytes)
    machine.save(tmp_path / "lost.dmp")
    (state,) = load_states(str(tmp_path / "lost.dmp"))
    below = 0
    for found in state.tags:
        raw = struct.pack("<I", int.from_bytes(found.tag.raw, "little") & 0x7FFFFFFF)
        for pool in PoolKind:
            blocks, held = truth[raw, pool]
            is_below = blocks < 0 or held < 0
            below += is_below
            side = found.usage(pool)
            assert (side.outstanding, side.bytes) == ((None, None) if is_below else (blocks, held)), found.tag
            assert not side.clamped
    assert below > 10 and any("what they hold is not known" in warning for warning in state.warnings)
    assert state.total_bytes(PoolKind.NONPAGED) is None
    status, text = answer(capsys, "used", tmp_path / "lost.dmp", "--width", "200")
    assert status == 1 and "18,446," not in text
    assert sum(line.count(" - ") > 1 for line in text.splitlines()) >= below // 2
    assert judge_state(state, {}).suspects == ()


@pytest.mark.parametrize("arch", ["x86", "x86pae"])
def test_32_bit_sums_below_zero_are_null_too(arch, tmp_path):
    machine = forge("quiet", arch=arch, build=17763 if arch == "x86pae" else 7601, processors=4)
    machine.omit(machine.addresses["table:3"], machine.table_bytes)
    machine.save(tmp_path / "lost.dmp")
    (state,) = load_states(str(tmp_path / "lost.dmp"))
    sides = [found.usage(pool) for found in state.tags for pool in PoolKind]
    assert sum(side.bytes is None for side in sides) > 10
    assert all(side.bytes is None or side.bytes < 1 << 31 for side in sides)
    assert not rank_suspects(state, {})


def test_up_to_a_few_spoiled_rows_hide_nothing():
    """Damage of single rows is that of single tags; a lost page of a table is not."""
    assert not covered(4).lacks_counts and not covered(4, rows=4100 - 32).lacks_counts
    assert covered(4, rows=4100 - 33).lacks_counts and covered(3).lacks_counts
    assert not TableCoverage().lacks_counts  # of a log nothing is expected
    assert not TableCoverage(rows_expected=4100).lacks_counts  # nothing tells how many were read


def test_a_driver_that_frees_little_of_much_stays_a_suspect_and_one_whose_frees_may_be_missing_does_not():
    owners = dict([owned("Pipo", "pippo.sys"), owned("Most", "most.sys"), owned("Wind", "nt", windows=True)])
    rows = (
        row("Pipo", usage(4_000_000, 1_000, 2 * GB)),
        row("Most", usage(6_600_000, 2_600_000, 2 * GB)),
        row("Wind", usage(4_000_000, 1_000, 2 * GB)),
        row("Nown", usage(4_000_000, 1_000, 2 * GB)),
    )
    whole = rank_suspects(snapshot(*rows), owners)
    assert {suspect.tag.text for suspect in whole} >= {"Pipo", "Nown"}
    lacking = rank_suspects(snapshot(*rows, coverage=covered(3)), owners)
    assert [suspect.tag.text for suspect in lacking] == ["Pipo"]
    assert lacking[0].share is None and lacking[0].bytes_per_hour is None
    assert not any("%" in reason and "freed" not in reason for reason in lacking[0].reasons)
    assert rank_suspects(snapshot(*rows, coverage=covered(0)), owners) == ()


@given(
    read=st.integers(0, 64),
    lost=st.integers(1, 64),
    frees=st.none() | st.integers(0, 10**9),
    more=st.integers(0, 10**9),
    blocks=st.none() | st.integers(0, 10**9),
    role=st.sampled_from(Role),
)
def test_more_frees_and_fewer_tables_never_clear_the_doubt(read, lost, frees, more, blocks, role):
    assume(read + lost > 1)  # one table counts for all processors: a row that was read is whole

    def is_doubtful(read, frees):
        held = PoolUsage(blocks, frees, blocks, 64 * (blocks or 0))
        return may_be_missing_frees(covered(read, read + lost), held, role)

    if is_doubtful(read, frees):
        assert frees is None or is_doubtful(read, frees + more)
        assert not read or may_be_missing_frees(
            covered(read - 1, read + lost), PoolUsage(blocks, frees, blocks, 0), role
        )
    if role is not Role.CAUSE or blocks is None or frees is None or not read:
        assert is_doubtful(read, frees)
    assert not may_be_missing_frees(covered(4), PoolUsage(blocks, frees, blocks, 0), role)


def test_the_only_table_of_old_kernels_lacks_tags_and_not_counts_of_those_that_were_read():
    coverage = covered(1, tables=1, rows=900)
    assert coverage.lacks_counts and not may_be_missing_frees(coverage, usage(9, 3, 640), Role.CAUSE)
    report = judge_state(snapshot(LEAK, coverage=coverage), dict([owned("Pipo", "pippo.sys")]))
    said = "900 of 1,025 rows of the tag tables could be read: what the tags of the others hold is not known."
    assert report.verdict.startswith(said) and "looks like a leak of pippo.sys" in report.verdict


LEAK = row("Pipo", usage(4_000_000, 1_000, 2 * GB))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (4, 3, f"Of the later state {LACKING}"),
        (3, 4, f"Of the earlier state {LACKING}"),
        (
            3,
            2,
            "Of the earlier state 3 of 4 processor tables, of the later one 2 of 4 processor tables could be read: "
            + NOT_KNOWN,
        ),
    ],
)
def test_a_difference_says_which_state_lacks_tables_and_names_no_growth_that_they_explain(
    before, after, said, tmp_path, capsys
):
    rows = (row("Even", usage(500_000, 400_000, GB)), row("File", usage(90_000, 80_000, GB)))
    old = snapshot(*rows, coverage=covered(before))
    new = snapshot(*rows[1:], row("Even", usage(900_000, 500_000, 4 * GB)), LEAK, coverage=covered(after))
    for name, state in (("old", old), ("new", new)):
        (tmp_path / name).write_text(render_snapshot_json(state))
    for form in ("text", "html", "dml"):
        text = answer(capsys, "diff", tmp_path / "old", tmp_path / "new", "--format", form)[1]
        text = " ".join(text.replace("<b>", "").replace("</b>", "").split())
        assert said in text and "No tag is said to have grown, and none not to have." in text
        assert "grew most" not in text
    status, text = answer(capsys, "diff", tmp_path / "old", tmp_path / "new", "--format", "json")
    document = json.loads(text)
    assert status == 1 and said in document["verdict"]
    assert document["totals"] == {"nonpaged_bytes": None, "paged_bytes": None}
    assert compare_snapshots(old, new).total_bytes(PoolKind.NONPAGED) is None


def test_a_growth_that_no_missing_table_explains_is_said_with_the_reserve(dumps, capsys):
    text = " ".join(answer(capsys, "diff", dumps["whole", "quiet"], dumps["lost", "pipo"])[1].split())
    assert f"Of the later state {LACKING} By the tables that were read: Tag Pipo of the nonpaged pool grew most" in text
    text = " ".join(answer(capsys, "diff", dumps["lost", "quiet"], dumps["whole", "pipo"])[1].split())
    assert "No tag is said to have grown, and none not to have." in text


def test_a_series_goes_without_the_states_that_lack_tables():
    def state(hour, coverage):
        held = 100_000_000 if coverage.lacks_counts else 1_000_000 + hour
        taken_at = START + timedelta(hours=hour)
        return snapshot(row("Idle", usage(held, 0, held)), path=f"{hour}.dmp", taken_at=taken_at, coverage=coverage)

    states = [state(hour, covered(3 if hour > 20 else 4)) for hour in range(24)]
    report = follow_series(states)
    assert report.samples == 21
    assert (report.trends[0].last_bytes or 0) < 2_000_000
    assert any("left out" in line and "21.dmp, 22.dmp, 23.dmp" in line for line in report.warnings)
    assert follow_series(states[21:]).samples == 0


def test_a_batch_says_how_many_dumps_lack_tables(dumps, tmp_path, capsys):
    words = ("batch", dumps["lost", "pipo"], dumps["whole", "quiet"], "--jobs", "2")
    store = tmp_path / "store"
    status, text = answer(capsys, *words, "--store", store)
    said = "1 of 2 dumps lacks rows of the tag tables: what its tags hold is not known. "
    assert status == 1 and said in " ".join(text.split())
    document = json.loads(answer(capsys, *words, "--store", store, "--format", "json")[1])
    assert document["counts"]["uncounted"] == 1 and document["verdict"].startswith(said)
    assert said in " ".join(answer(capsys, *words, "--store", store, "--format", "html")[1].split())


def write_store(path, dumps):
    """Two whole states of one host and, between or after them, one that lacks a table and seems to hold the most."""
    with open_store(str(path)) as store:
        for day, (held, coverage) in enumerate(dumps):
            taken_at = START + timedelta(days=day)
            state = snapshot(row("Pipo", usage(held, 0, held)), taken_at=taken_at, coverage=coverage)
            report = judge_state(state, {})
            kept = Answer(
                DumpStatus.DONE.value,
                1.0,
                report=json.loads(render_report_json(report)),
                state=json.loads(render_snapshot_json(state)),
                drivers=[],
            )
            store.save(DumpInput(f"{day}.dmp", f"/{day}.dmp", str(day)), "HOST", kept)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_history_takes_no_number_from_a_dump_that_lacks_tables(place, tmp_path, capsys):
    dumps = [(100 << 20, covered(4)), (150 << 20, covered(4))]
    dumps.insert(place, (9 << 30, covered(3)))
    write_store(tmp_path / "x.sqlite", dumps)
    words = ("history", "Pipo", "--store", tmp_path / "x.sqlite")
    said = "1 dump lacks rows of the tag tables: what its tags held is not known."
    text = answer(capsys, *words, "--width", "120")[1]
    assert said in text and "GB" not in text
    assert text.splitlines()[2].split()[3] == "3" and "100 MB" in text and "150 MB" in text
    document = json.loads(answer(capsys, *words, "--format", "json")[1])
    first, last = [day for day in range(3) if day != place]
    grown = f"by 50.0 MB on HOST from 2024-11-{12 + first} to 2024-11-{12 + last}."
    assert document["verdict"] == f"{said} Tag Pipo of the nonpaged pool grew most: {grown}"
    sample = document["lines"][0]["samples"][place]
    assert all(sample[name] is None for name in ("allocs", "frees", "outstanding", "bytes"))


def test_times_that_are_told_count_a_sample_that_is_left_out():
    """--every: the fourth of twelve hourly states lacks a table; the rate is that of the others' own hours."""
    states = [
        snapshot(row("Pipo", usage(1000 + hour, 1, (1 + hour) << 20)), path=f"{hour}.dmp", coverage=covered(4))
        for hour in range(12)
    ]
    states[0] = replace(states[0], taken_at=START)
    whole = follow_series(states, every_seconds=3600)
    states[3] = replace(states[3], coverage=covered(3))
    lacking = follow_series(states, every_seconds=3600)
    assert (whole.uncounted, lacking.uncounted) == (0, 1)
    assert lacking.span_seconds == whole.span_seconds == 11 * 3600
    assert lacking.trends[0].slope.bytes_per_hour == whole.trends[0].slope.bytes_per_hour == 1 << 20


def test_a_series_of_nothing_else_says_why_it_has_no_verdict(dumps, capsys):
    status, text = answer(capsys, "trend", dumps["lost", "quiet"], dumps["lost", "pipo"], "--mixed")
    assert status == 1
    assert "No verdict: 2 samples lack rows of the tag tables" in " ".join(text.split())


def test_a_table_whose_end_is_not_known_is_not_whole(capsys, tmp_path):
    """The first page of a table fits the hash of a shorter one; of nt's data what tells the size is missing, too."""
    machine = forge("quiet", build=17763, processors=1, table_rows=513)
    machine.omit(machine.addresses["table:0"] + 0x1000, 0x7000)
    machine.omit(machine.addresses["nt"] + 0x406FE0, 8)  # PoolTrackTableSize of this kernel
    path = tmp_path / "MEMORY.DMP"
    machine.save(str(path))
    status, text = answer(capsys, "analyze", str(path))
    plain = " ".join(text.split())
    assert status == 1
    assert "of an unknown number of rows of the tag tables could be read: what the tags of the others hold" in plain
    assert "No leak by its looks" not in plain
    document = json.loads(answer(capsys, "used", str(path), "--format", "json")[1])
    assert document["coverage"]["rows"]["expected"] is None
