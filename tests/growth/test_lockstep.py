"""Tags that grow together: the groups that people found by hand in real leaks, and who is the cause in them."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from pykdext.growth import compare_snapshots, find_lockstep, iter_delta_blocks
from pykdext.growth.lockstep import BlockCount
from pykdext.model import PoolKind, PoolTag, PoolUsage, Role
from tests.helpers.builders import row, snapshot, usage

OBJECTS = {PoolTag.from_text(name) for name in ("File", "Toke", "Proc")}


def is_object(tag):
    return tag in OBJECTS


def outstanding(name, blocks, pool="nonpaged"):
    return row(name, **{pool: PoolUsage(None, None, blocks, None)})


def names_of(group):
    return [member.tag.text for member in group.members]


def counts_of(state):
    """Everything that stands out in a snapshot, as if it had grown from nothing."""
    return [
        BlockCount(row.tag, pool, row.usage(pool).outstanding, row.usage(pool))
        for row in state.tags
        for pool in PoolKind
        if row.usage(pool).outstanding
    ]


def test_the_group_of_wcifs_comes_out_as_worked_out_by_hand():
    """microsoft/WSL#40804: growth in 4.91 days by class 22 of NtQuerySystemInformation, ratios to WCsc by hand."""
    grown = {
        "WCsc": (503_677, 1.000),
        "NtfC": (503_712, 1.000),
        "File": (514_826, 1.022),
        "IoNm": (504_435, 1.002),
        "FOCX": (503_787, 1.000),
        "FMfc": (503_797, 1.000),
        "FMwi": (503_677, 1.000),
        "IoFE": (1_006_714, 1.999),
    }
    freed = {"WCsc": 0, "FMwi": 0}  # the thread: never freed since a cold boot; the others have users of their own
    busy = 40_000_000
    before = snapshot(*(row(name, usage(freed.get(name, busy) + 10, freed.get(name, busy), 0)) for name in grown))
    after = snapshot(
        *(
            row(name, usage(2 * freed.get(name, busy) + 10 + blocks, 2 * freed.get(name, busy), blocks))
            for name, (blocks, _) in grown.items()
        ),
        row("EtwB", usage(9_000, 100, 1 << 20)),
    )
    diff = compare_snapshots(before, after)
    (group,) = find_lockstep(iter_delta_blocks(diff), is_object)
    assert set(names_of(group)) == set(grown)
    for member in group.members:
        blocks, ratio = grown[member.tag.text]
        assert (member.blocks, round(member.ratio, 3)) == (blocks, ratio)
    roles = {member.tag.text: member.role for member in group.members}
    assert [name for name, role in roles.items() if role is Role.CAUSE] == ["FMwi", "WCsc"]
    assert names_of(group)[:2] == ["FMwi", "WCsc"]
    assert roles.pop("File") is Role.OBJECT
    assert {role for name, role in roles.items() if name not in freed} == {Role.VICTIM}


def test_the_live_table_of_token_and_file_tags(evidence):
    """microsoft/WSL#41296: one state of a machine; tokens with their data, and five tags of one file each."""
    text = (evidence / "poolmon" / "live-leak-numbers-issues-NtFC-wcifs.txt").read_text(encoding="utf-8")
    table = {
        "Toke": 3_708_367,
        "FMfn": 13_564_307,
        "Ntfc": 13_346_730,
        "IoNm": 13_356_474,
        "SeAt": 15_601_954,
        "SeTd": 3_708_367,
        "D2d ": 13_325_627,
        "NtfF": 250_672,
    }
    for name, blocks in table.items():
        assert re.search(rf"`{re.escape(name)}` \| [\d,.]+ MB \| {blocks:,} \|", text), name
    state = snapshot(*(outstanding(name, blocks, "paged") for name, blocks in table.items()))
    groups = find_lockstep(counts_of(state), is_object)
    assert [set(names_of(group)) for group in groups] == [{"FMfn", "IoNm", "Ntfc", "D2d "}, {"Toke", "SeTd"}]
    assert [group.number for group in groups] == [1, 2]
    token, data = groups[1].members[::-1]
    assert (token.tag.text, token.role) == ("Toke", Role.OBJECT)
    assert (data.ratio, data.role, data.reason) == (1.0, Role.UNKNOWN, "its frees are not known")


def test_a_group_reaches_over_both_pools():
    state = snapshot(outstanding("File", 13_626_897), outstanding("Ntfc", 13_346_730, "paged"))
    (group,) = find_lockstep(counts_of(state))
    assert {member.pool for member in group.members} == set(PoolKind)


def counts(*blocks):
    return [
        BlockCount(PoolTag(b"T%03d" % number), PoolKind.PAGED, count, usage(count, 0, count))
        for number, count in enumerate(blocks)
    ]


def test_ratios_that_are_no_whole_number_are_no_lockstep():
    assert find_lockstep(counts(100_000, 150_000)) == ()
    assert find_lockstep(counts(100_000, 104_000)) == ()
    assert find_lockstep(counts(100_000, 203_000)) == ()
    assert find_lockstep(counts(100_000, 500_000)) == ()


def test_two_blocks_each_time_are_lockstep():
    (group,) = find_lockstep(counts(100_000, 200_100))
    assert sorted(member.blocks for member in group.members) == [100_000, 200_100]


def test_few_blocks_are_equal_by_chance():
    before, after = snapshot(outstanding("Aaaa", 0)), snapshot(outstanding("Aaaa", 499))
    assert list(iter_delta_blocks(compare_snapshots(before, after))) == []


def roles_by_freed(*freed):
    """The roles of tags that grew alike, of which this share of 1,000,000 allocations was freed."""
    members = [
        BlockCount(PoolTag(b"T%03d" % at), PoolKind.PAGED, 1000, usage(1_000_000, int(share * 1_000_000), 0))
        for at, share in enumerate(freed)
    ]
    (group,) = find_lockstep(members)
    return [member.role for member in sorted(group.members, key=lambda member: member.tag)]


def test_who_is_freed_least_is_the_cause():
    assert roles_by_freed(0.0, 0.98) == [Role.CAUSE, Role.VICTIM]
    assert roles_by_freed(0.3, 0.98, 0.32) == [Role.CAUSE, Role.VICTIM, Role.CAUSE]


def test_tags_that_are_never_freed_share_the_blame():
    assert roles_by_freed(0.0, 0.01) == [Role.CAUSE, Role.CAUSE]


def test_tags_that_are_freed_alike_have_no_known_role():
    assert roles_by_freed(0.98, 0.99) == [Role.UNKNOWN, Role.UNKNOWN]


@given(st.lists(st.integers(1, 10_000_000), max_size=40))
def test_no_tag_is_in_two_groups_and_members_keep_the_proportion(blocks):
    groups = find_lockstep(counts(*blocks))
    tags = [member.tag for group in groups for member in group.members]
    assert len(tags) == len(set(tags))
    for group in groups:
        assert len(group.members) >= 2
        largest = max(member.blocks for member in group.members)
        smallest = min(member.blocks for member in group.members)
        assert largest / smallest <= 4 * 1.005 / 0.975 + 0.001
        assert group.members[0].ratio == 1.0


def take_largest(left):
    """The greedy rule in plain words: count the followers of every reference, take the most, begin anew."""

    def followers(reference):
        return [
            blocks
            for blocks in left
            if 0.975 * reference <= blocks <= 1.025 * reference
            or any(0.995 * n * reference <= blocks <= 1.005 * n * reference for n in (2, 3, 4))
        ]

    while left:
        group = max(map(followers, left), key=len)
        if len(group) < 2:
            return
        yield group
        left = [blocks for blocks in left if blocks not in group]


@given(st.lists(st.integers(1, 400).map(lambda n: n * 7), max_size=40))
def test_groups_are_those_of_counting_every_reference_anew(blocks):
    counts = [outstanding(f"{number:04d}", count) for number, count in enumerate(blocks)]
    groups = find_lockstep(counts_of(snapshot(*counts)))
    found = [sorted(member.blocks for member in group.members) for group in groups]
    assert found == [sorted(group) for group in take_largest(sorted(blocks))]


def test_many_counts_close_to_each_other_are_grouped_without_their_square():
    """Of 20,000 counts each goes with 5,000 others, but few are counted more than once."""
    usage = PoolUsage(10, 5, 5, 80)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = ["".join(name) for name in itertools.islice(itertools.product(letters, repeat=4), 20_000)]
    counts = [
        BlockCount(PoolTag.from_text(name), PoolKind.NONPAGED, 100_000 + number, usage)
        for number, name in enumerate(names)
    ]
    groups = find_lockstep(counts)
    members = [member.tag for group in groups for member in group.members]
    assert 19_990 <= len(members) == len(set(members))
    assert all(member.blocks <= 1.0515 * group.members[-1].blocks for group in groups for member in group.members)
