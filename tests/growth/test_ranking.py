"""What looks like a leak, judged from one state."""

from __future__ import annotations

import pytest
from hypothesis import given

from pykdext.growth import find_notable, rank_suspects
from pykdext.model import Confidence, ImageCoverage, PoolKind, PoolTag, PoolUsage, Role, SystemMemory
from pykdext.pipeline.advice import next_steps
from pykdext.report.sentences.states import verdict_on
from tests.helpers.builders import owned, row, snapshot, snapshots, usage

MB, GB = 1 << 20, 1 << 30
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
    assert verdict_on(()).startswith("Nothing stands out")


def test_a_leak_of_a_foreign_driver_is_first_and_says_why():
    suspects = rank_suspects(snapshot(*HEALTHY, LEAK), {**KNOWN, **dict([owned("Pipo", "pippo.sys")])})
    assert [suspect.tag.text for suspect in suspects] == ["Pipo"]
    first = suspects[0]
    assert (first.pool, first.role) == (PoolKind.NONPAGED, Role.CAUSE)
    assert first.bytes_per_hour == pytest.approx(2 * GB / 10)
    assert first.share == pytest.approx(2 * GB / (2 * GB + 269 * MB))
    assert "; ".join(first.reasons) == (
        "holds 88% of the nonpaged pool; holds 2.00 GB; 3,999,000 blocks are outstanding; "
        "only 0.03% of 4,000,000 allocations was ever freed; pippo.sys is not part of Windows"
    )
    verdict = verdict_on(suspects)
    assert "Pipo" in verdict and "pippo.sys (likely)" in verdict and "2.00 GB" in verdict


def test_the_share_is_that_of_the_whole_pool():
    listed = snapshot(row("Xdrv", usage(900, 88, 13 * MB)), memory=SystemMemory(nonpaged_bytes=2600 * MB))
    assert rank_suspects(listed, dict([owned("Xdrv")])) == ()
    held = snapshot(LEAK, memory=SystemMemory(nonpaged_bytes=1 * GB))  # less than its tags: another moment
    assert rank_suspects(held, dict([owned("Pipo")]))[0].share == 1.0


def test_a_pool_that_is_one_tag_stands_out_whatever_else_is_known_of_it():
    full = row("NtFC", PoolUsage(None, None, None, 20 * GB))
    (suspect,) = rank_suspects(snapshot(full, memory=SystemMemory(nonpaged_bytes=21 * GB)), {})
    assert suspect.reasons == ("holds 95% of the nonpaged pool", "holds 20.0 GB")
    assert rank_suspects(snapshot(full), {}) == (), "the rows may be those that somebody chose"


def test_what_the_source_does_not_tell_is_no_verdict():
    assert verdict_on((), snapshot=snapshot()).startswith("No verdict: the source lists no tags")
    sizes = snapshot(row("Abcd", PoolUsage(None, None, 7, 900)))
    assert "does not tell how often tags were freed" in verdict_on((), snapshot=sizes)
    assert verdict_on((), snapshot=snapshot(*HEALTHY)).startswith("Nothing stands out")


def test_a_leak_nobody_can_be_named_for_is_still_said():
    suspects = rank_suspects(snapshot(*HEALTHY, LEAK), dict([owned("Pipo")]))
    assert suspects[0].role is Role.UNKNOWN
    assert "Only a dump can tell" in verdict_on(suspects)
    assert "No driver in memory" in verdict_on(suspects, ImageCoverage(12, 14, 0.5))


def test_an_object_tag_is_a_victim_to_ask_about():
    leak = row("Toke", paged=usage(4_000_000, 90_000, 7 * GB))
    suspects = rank_suspects(snapshot(*HEALTHY, leak), dict([owned("Toke", "nt", windows=True, tag_class="object")]))
    assert suspects[0].role is Role.OBJECT
    assert "victim" in verdict_on(suspects)
    steps = next_steps(snapshot(), suspects)
    assert any(step.command is None and "ask this" in step.why for step in steps)
    assert not any(step.command and step.command.startswith("lmvm") for step in steps)


def test_a_weak_owner_is_no_cause():
    owners = dict([owned("Pipo", "pippo.sys", confidence=Confidence.POSSIBLE)])
    assert rank_suspects(snapshot(*HEALTHY, LEAK), owners)[0].role is Role.UNKNOWN


def test_buffers_for_life_are_no_leak():
    buffers = row("Dsp ", usage(12, 0, 400 * MB))
    assert rank_suspects(snapshot(*HEALTHY, buffers), dict([owned("Dsp ", "display.sys")])) == ()


def test_small_tags_are_not_judged():
    drop = row("Drop", usage(200_000, 0, 3 * MB))
    assert PoolTag(b"Drop") not in find_notable(snapshot(*HEALTHY, drop))


def test_several_owners_are_all_named():
    suspects = rank_suspects(snapshot(*HEALTHY, LEAK), dict([owned("Pipo", "one.sys", "two.sys")]))
    assert "one.sys or two.sys (likely)" in verdict_on(suspects)


def test_next_steps_are_commands_to_type():
    state = snapshot(*HEALTHY, LEAK)
    suspects = rank_suspects(state, dict([owned("Pipo", "pippo.sys")]))
    commands = [step.command for step in next_steps(state, suspects)]
    assert commands[:4] == ["!poolused 2 Pipo", "lmvm pippo", "ub fffff800`00001014 L4", "!poolfind Pipo 0"]
    assert commands[-1] == "poolleak snapshot server.dmp -o before.json"


@given(snapshots)
def test_every_state_gets_a_verdict(state):
    suspects = rank_suspects(state, {})
    assert verdict_on(suspects)
    assert {suspect.tag for suspect in suspects} <= set(find_notable(state))
    assert all(0 < suspect.share <= 1 for suspect in suspects)
