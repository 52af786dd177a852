"""What looks like a leak, judged from one state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from pykdext.attribution.taglists import load_knowntags
from pykdext.growth import find_notable, rank_suspects
from pykdext.model import (
    POOL_UNNAMED,
    Confidence,
    ImageCoverage,
    PoolKind,
    PoolTag,
    PoolUsage,
    Role,
    SnapshotSource,
    SystemMemory,
    TagClass,
    TagDescription,
    TagOwners,
    Usual,
    UsualUnit,
)
from pykdext.pipeline.advice import next_steps
from pykdext.pipeline.verdict import judge_state
from tests.helpers.builders import NO_IMAGES, owned, row, snapshot, snapshots, usage

MB, GB = 1 << 20, 1 << 30
SEEN = ("desktop", "WDK", "Windows", "server")
HEALTHY = (
    row("File", usage(90_000_000, 89_700_000, 110 * MB)),
    row("EtwB", usage(900, 300, 150 * MB)),
    row("Thre", usage(400_000, 396_000, 9 * MB)),
    row("CM31", paged=usage(60_000, 20_000, 240 * MB)),
    row("MmSt", paged=usage(3_000_000, 2_900_000, 300 * MB)),
)
KNOWN = dict(
    [owned("EtwB", "nt", windows=True, tag_class="cache"), owned("CM31", "nt", windows=True, tag_class="cache")]
)
LEAK = row("Pipo", usage(4_000_000, 1_000, 2 * GB))


def test_a_healthy_server_has_no_suspects():
    assert rank_suspects(snapshot(*HEALTHY), KNOWN) == ()
    assert judge_state(snapshot(*HEALTHY), KNOWN).verdict.startswith(
        "Tag MmSt holds 300 MB, 56% of the paged pool; 100,000 blocks are outstanding. These signs do not suffice"
    )


def test_a_leak_of_a_foreign_driver_is_first_and_says_why():
    suspects = rank_suspects(snapshot(*HEALTHY, LEAK), {**KNOWN, **dict([owned("Pipo", "pippo.sys")])})
    assert [suspect.tag.text for suspect in suspects] == ["Pipo"]
    first = suspects[0]
    assert (first.pool, first.role) == (PoolKind.NONPAGED, Role.CAUSE)
    assert first.bytes_per_hour == pytest.approx(2 * GB / 10)
    assert first.share == pytest.approx(2 * GB / (2 * GB + 269 * MB))
    assert "; ".join(first.reasons) == (
        "holds 88% of the nonpaged pool; holds 2.00 GB; holds 13.7 times as much as the next tag; 3,999,000 blocks are "
        "outstanding; only 0.03% of 4,000,000 allocations was ever freed; pippo.sys is not part of Windows"
    )
    verdict = judge_state(snapshot(*HEALTHY, LEAK), {**KNOWN, **dict([owned("Pipo", "pippo.sys")])}).verdict
    assert "Pipo" in verdict and "pippo.sys (likely)" in verdict and "2.00 GB" in verdict


def test_the_share_is_that_of_the_whole_pool():
    listed = snapshot(row("Xdrv", usage(900, 88, 13 * MB)), memory=SystemMemory(nonpaged_bytes=2600 * MB))
    assert rank_suspects(listed, dict([owned("Xdrv")])) == ()
    held = snapshot(LEAK, memory=SystemMemory(nonpaged_bytes=1 * GB))  # less than its tags: another moment
    assert rank_suspects(held, dict([owned("Pipo")]))[0].share == 1.0


def test_a_pool_that_is_one_tag_stands_out_whatever_else_is_known_of_it():
    full = row("NtFC", PoolUsage(None, None, None, 20 * GB))
    (suspect,) = rank_suspects(snapshot(full, memory=SystemMemory(nonpaged_bytes=21 * GB)), {})
    assert suspect.reasons[:2] == ("holds 95% of the nonpaged pool", "holds 20.0 GB")
    pasted = replace(snapshot(full), source=SnapshotSource("poolmon log", "log.txt"))
    (suspect,) = rank_suspects(pasted, {})
    assert suspect.reasons[0] == "holds 100% of what is listed of the nonpaged pool"


def test_what_the_source_does_not_tell_is_no_verdict():
    assert judge_state(snapshot(), {}).verdict.startswith("No verdict: the source lists no tags")
    sizes = [row(tag, PoolUsage(None, None, 7, 90 * MB)) for tag in ("Abcd", "Bcde", "Cdef", "Defg")]
    assert "does not tell how often tags were freed" in judge_state(snapshot(*sizes), {}).verdict
    few = replace(snapshot(row("Abcd", PoolUsage(None, None, 7, 900))), source=SnapshotSource("!poolused text"))
    little = judge_state(few, {}).verdict
    assert "Tag Abcd holds 900 bytes, 100% of what is listed of the nonpaged pool: too little" in little


def test_a_leak_nobody_can_be_named_for_is_still_said():
    state, owners = snapshot(*HEALTHY, LEAK), dict([owned("Pipo")])
    assert rank_suspects(state, owners)[0].role is Role.UNKNOWN
    assert "A dump or the machine's driver files can tell" in judge_state(state, owners).verdict
    assert "No driver in memory" in judge_state(state, owners, ImageCoverage(12, 14, 0.5)).verdict


def test_an_object_tag_is_a_victim_to_ask_about():
    leak = row("Toke", paged=usage(4_000_000, 90_000, 7 * GB))
    owners = dict([owned("Toke", "nt", windows=True, tag_class="object")])
    report = judge_state(snapshot(*HEALTHY, leak), owners)
    assert report.suspects[0].role is Role.OBJECT
    assert "victim" in report.verdict
    steps = report.next_steps
    assert any(step.command is None and "ask this" in step.why for step in steps)
    assert not any(step.command and step.command.startswith("lmvm") for step in steps)


def test_a_weak_owner_is_no_cause():
    owners = dict([owned("Pipo", "pippo.sys", confidence=Confidence.POSSIBLE)])
    assert rank_suspects(snapshot(*HEALTHY, LEAK), owners)[0].role is Role.UNKNOWN


def test_buffers_for_life_are_no_leak():
    buffers = row("Dsp ", usage(12, 0, 400 * MB))
    assert rank_suspects(snapshot(*HEALTHY, buffers), dict([owned("Dsp ", "display.sys")])) == ()


def test_small_tags_are_no_suspects():
    drop = row("Drop", usage(200_000, 0, 3 * MB))
    assert PoolTag(b"Drop") not in {suspect.tag for suspect in rank_suspects(snapshot(*HEALTHY, drop), KNOWN)}


def test_several_owners_are_all_named():
    report = judge_state(snapshot(*HEALTHY, LEAK), dict([owned("Pipo", "one.sys", "two.sys")]))
    assert "one.sys or two.sys (likely)" in report.verdict


def test_next_steps_are_commands_to_type():
    state = snapshot(*HEALTHY, LEAK)
    suspects = rank_suspects(state, dict([owned("Pipo", "pippo.sys")]))
    commands = [step.command for step in next_steps(state, suspects)]
    assert commands[:4] == ["!poolused 2 Pipo", "lmvm pippo", "ub fffff800`00001014 L4", "!poolfind Pipo 0"]
    assert commands[-1] == "poolleak snapshot server.dmp -o before.json"


@given(snapshots)
def test_every_state_gets_a_verdict(state):
    report = judge_state(state, {})
    assert report.verdict
    assert {item.tag for item in (*report.suspects, *report.largest)} <= set(find_notable(state))
    assert all(0 < suspect.share <= 1 for suspect in report.suspects)


@given(snapshots)
def test_no_tag_list_turns_a_suspect_into_none(state):
    listed = {
        known.tag: TagOwners(
            known.tag, (), ImageCoverage(0, 0, None), (TagDescription(known.tag.text, "", "a use", "list"),)
        )
        for known in state.tags
    }
    before = {(suspect.tag, suspect.pool) for suspect in rank_suspects(state, {})}
    assert before == {(suspect.tag, suspect.pool) for suspect in rank_suspects(state, listed)}


def test_a_leak_below_the_old_thresholds_that_eyes_see():
    others = [row(f"Ab{number:02}", usage(90_000, 60_000, 80 * MB)) for number in range(90)]
    leak = row("WDiv", usage(91_790, 40, 734 * MB))
    (suspect,) = rank_suspects(snapshot(*others, leak), dict([owned("WDiv", "windivert64.sys")]))
    assert suspect.tag.text == "WDiv"
    assert suspect.share == pytest.approx(0.0925, abs=0.001)
    assert "holds 9.2 times as much as the next tag" in suspect.reasons


def test_a_leak_of_a_small_machine():
    small = [row(f"Ab{number}", usage(9_000, 6_000, 300_000)) for number in range(5)]
    leak = row("Leak", usage(33_000, 0, 33 * MB))
    state = snapshot(*small, leak, memory=SystemMemory(nonpaged_bytes=35 * MB))
    (suspect,) = rank_suspects(state, dict([owned("Leak", "small.sys", confidence=Confidence.PROVEN)]))
    assert suspect.role is Role.CAUSE


def test_shared_tags_name_no_caller():
    leak = row("Ddk ", usage(8_200_000, 40_000, 6 * GB))
    report = judge_state(
        snapshot(*HEALTHY, leak),
        dict([owned("Ddk ", "nt", windows=True, confidence=Confidence.POSSIBLE, tag_class="generic")]),
    )
    assert report.suspects[0].role is Role.SHARED
    assert "The caller is not told by this tag" in report.verdict
    assert "leak of nt" not in report.verdict


def test_what_takes_the_memory_is_named_with_what_holds_it():
    blocks = 3_708_367
    held = row("Toke", paged=usage(90_000_000, 90_000_000 - blocks, 8 * GB))
    holder = row("Hldr", usage(blocks, 0, 230 * MB))
    owners = dict(
        [
            owned("Toke", "nt", windows=True, tag_class="object"),
            owned("Hldr", "holder.sys", confidence=Confidence.PROVEN),
        ]
    )
    report = judge_state(snapshot(*HEALTHY, held, holder), {**KNOWN, **owners})
    assert report.verdict.startswith(
        "8.00 GB of Toke, 94% of the paged pool: one for each of 3,708,367 blocks of Hldr, "
    )
    assert "which holder.sys (proven) allocates" in report.verdict
    assert [member.tag.text for member in report.groups[0].members] == ["Hldr", "Toke"]


def test_the_largest_tags_stand_in_every_verdict():
    report = judge_state(snapshot(*HEALTHY), KNOWN)
    assert not report.suspects
    assert [item.tag.text for item in report.largest] == ["EtwB", "File", "Thre", "MmSt", "CM31"]


def test_numbers_that_cannot_be_right_are_doubted():
    vast = snapshot(memory=SystemMemory(nonpaged_bytes=113 * GB, physical_bytes=8 * GB))
    assert any("113 GB exceeds the 8.00 GB of physical memory" in line for line in judge_state(vast, {}).warnings)
    full = snapshot(row("Abcd", PoolUsage(5, 5, 0, 900)), memory=SystemMemory(paged_bytes=3 * GB, paged_limit_bytes=GB))
    warnings = judge_state(full, {}).warnings
    assert any("paged pool of 3.00 GB exceeds its limit of 1.00 GB" in line for line in warnings)
    assert any("bytes without blocks cannot be right: Abcd" in line for line in warnings)


def test_what_is_usual_excuses_a_tag_but_not_a_pool_that_is_one_tag():
    usual = Usual(64 * MB, None, UsualUnit.GIGABYTE, "logs")
    entry = TagDescription("MmSt", "nt", "cache", "table", TagClass.CACHE, None, usual)
    known = {PoolTag(b"MmSt"): TagOwners(PoolTag(b"MmSt"), (), NO_IMAGES, (entry,))}
    map_of_cache = row("MmSt", paged=usage(3_000_000, 2_300_000, 900 * MB))
    others = [row(f"Ab{number}", paged=usage(9_000, 8_000, 300 * MB)) for number in range(5)]
    assert rank_suspects(snapshot(*others, map_of_cache), known) == ()
    far_more = row("MmSt", paged=usage(60_000_000, 2_300_000, 19 * GB))
    (suspect,) = rank_suspects(snapshot(*others, far_more), known)
    assert "up to 1.00 GB are usual on such a machine (logs)" in suspect.reasons


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (SystemMemory(physical_bytes=8 * GB), "25% of the machine's memory"),
        (SystemMemory(commit_limit_bytes=10 * GB), "20% of the commit limit"),
        (SystemMemory(physical_bytes=64 * GB, commit_limit_bytes=4 * GB), "50% of the commit limit"),
    ],
)
def test_size_is_measured_by_memory_and_commit_limit(memory, said):
    (suspect,) = rank_suspects(replace(snapshot(*HEALTHY, LEAK), memory=memory), KNOWN)
    assert f"that is {said}" in suspect.reasons


def test_an_estimate_is_said_to_be_one_and_weighs_less():
    estimate = Usual(None, 200, UsualUnit.PROCESS, "requests in progress", is_analogy=True)
    seen = replace(estimate, source="desktops", is_analogy=False)
    scores = []
    for usual in (estimate, seen):
        entry = TagDescription("Irp ", "nt", "request", "table", TagClass.OBJECT, None, usual)
        owners = {PoolTag(b"Irp "): TagOwners(PoolTag(b"Irp "), (), NO_IMAGES, (entry,))}
        state = snapshot(*HEALTHY, row("Irp", usage(9_000_000, 4_000_000, 3 * GB)))
        (suspect,) = rank_suspects(state, owners)
        scores.append(suspect.score)
        (said,) = (reason for reason in suspect.reasons if usual.source in reason)
        assert ("are usual" in said) is not usual.is_analogy
        assert ("an estimate, not seen" in said) is usual.is_analogy
    assert scores[0] == scores[1] - 1


def test_every_usual_amount_is_seen_or_said_to_be_an_estimate():
    known = [item.usual for item in load_knowntags() if item.usual]
    assert any(item.is_analogy for item in known)
    assert all(item.is_analogy or any(word in item.source for word in SEEN) for item in known)


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (SystemMemory(nonpaged_bytes=57 * MB, nonpaged_limit_bytes=60 * MB), "57.0 MB, 95% of its limit. No verdict"),
        (
            SystemMemory(nonpaged_bytes=3 * GB, physical_bytes=8 * GB),
            "3.00 GB, 38% of the machine's memory. No verdict",
        ),
        (SystemMemory(nonpaged_bytes=12 * GB), "The nonpaged pool holds 12.0 GB. No verdict"),
    ],
)
def test_a_total_that_is_large_is_said_to_be(memory, said):
    assert said in judge_state(replace(snapshot(), tags=(), memory=memory), {}).verdict


def test_a_total_that_cannot_be_is_not_told_as_a_fact():
    memory = SystemMemory(nonpaged_bytes=113 * GB, physical_bytes=8 * GB, nonpaged_limit_bytes=6 * GB)
    assert judge_state(replace(snapshot(), tags=(), memory=memory), {}).verdict.startswith("No verdict")


def test_in_a_full_pool_a_small_tag_counts():
    """125 MB of 128: what a driver allocates without a tag, on a server with 3 GB of memory."""
    memory = SystemMemory(nonpaged_bytes=122 * MB, nonpaged_limit_bytes=125 * MB, physical_bytes=3 * GB)
    rows = (row("None", PoolUsage(None, None, 246_479, 48 * MB)), row("MmCm", PoolUsage(None, None, 1_198, 17 * MB)))
    (suspect,) = rank_suspects(snapshot(*rows, memory=memory), {})
    assert suspect.tag.text == "None"
    assert "the pool is filled to 98% of its limit" in suspect.reasons
    roomy = replace(memory, nonpaged_limit_bytes=2 * GB)
    assert rank_suspects(snapshot(*rows, memory=roomy), {}) == ()


def test_a_pool_that_is_not_named_is_not_called_the_nonpaged_one():
    state = replace(snapshot(row("Abcd", usage(4_000_000, 1_000, 2 * GB))), warnings=(POOL_UNNAMED,))
    report = judge_state(state, {})
    assert "of the pool (which one is not said)" in report.verdict
    assert "nonpaged" not in f"{report.verdict} {report.suspects[0].reasons}"


def test_a_share_of_rows_that_somebody_chose_is_one_of_what_is_listed():
    chosen = replace(snapshot(LEAK), source=SnapshotSource("CSV of tags", "paste.csv"))
    for state, words in (
        (chosen, "100% of what is listed of the nonpaged pool"),
        (replace(chosen, memory=SystemMemory(nonpaged_bytes=2 * GB)), "of the nonpaged pool"),
        (replace(chosen, stated_nonpaged=PoolUsage(None, None, 9, 2 * GB)), "of the nonpaged pool"),
    ):
        said = judge_state(state, {}).verdict
        assert words in said
        assert ("what is listed" in said) is (state is chosen)


def test_a_text_leads_on_to_driver_files_and_its_words_say_why_it_is_no_leak_by_itself():
    chosen = replace(snapshot(LEAK), source=SnapshotSource("CSV of tags", "paste.csv"))
    commands = [step.command for step in judge_state(chosen, {}).next_steps]
    assert f"poolleak find {LEAK.tag} --images DIR" in commands
    healthy = replace(snapshot(*HEALTHY), source=SnapshotSource("CSV of tags", "paste.csv"))
    report = judge_state(healthy, KNOWN)
    assert "poolleak find TAG --images DIR" in [step.command for step in report.next_steps]
    assert "These signs do not suffice to call it a leak." in report.verdict
    dump = judge_state(snapshot(*HEALTHY), KNOWN)
    assert not any("--images" in (step.command or "") for step in dump.next_steps)
