"""The verdict on what people pasted, and on machines whose answer is known."""

from __future__ import annotations

import json

import pytest

from pykdext.cli.main import main
from pykdext.pipeline.verdict import judge_state
from tests.benchmarks.verdicts import grade, know_owners
from tests.helpers.poolstates import CASES, iter_states

STATES = list(iter_states())
MISSED = {"leak: a driver on a small machine, !poolused"}
"""42 MB in a text without frees and owners: a healthy virus filter looks the same."""


def verdict_on(name, capsys, *words):
    main([str(CASES / name), "--format", "json", *words])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_machines_with_a_known_answer(state):
    answer = grade(state, judge_state(state.snapshot, know_owners(state)))
    assert answer == ("miss" if state.name in MISSED else "right")


def test_there_are_enough_of_both():
    assert sum(not state.leaking for state in STATES) >= 25
    assert sum(bool(state.leaking) for state in STATES) >= 25


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("01b-amda-quoted.txt", "IoWI goes along with it, block for block"),
        ("21-poolused-binary-named.txt", "a leak of netio.sys (possible)"),
        ("73-lists.txt", "holds 13.3 GB, 99.1% of the nonpaged pool"),
        ("80-strg.txt", "The caller is not told by this tag"),
        ("84-shared-ddk.txt", "The caller is not told by this tag"),
        ("82-npbl-mdl.txt", "Tag NPBL holds 1.45 GB"),
        ("76-poolused-2-and-4.txt", "Tag Cont holds 6.08 GB"),
        ("45-poolfind.txt", "single blocks of amda"),
    ],
)
def test_what_the_sentence_says(name, said, capsys):
    assert said in verdict_on(name, capsys)["verdict"]


@pytest.mark.parametrize("name", [state.name[8:] for state in STATES if state.name.startswith("pasted")])
def test_no_shared_tag_is_a_leak_of_the_kernel_and_no_large_one_is_passed_over(name, capsys):
    (path,) = CASES.glob(f"{name}.*")
    report = verdict_on(path.name, capsys)
    assert "leak of nt (" not in report["verdict"]
    assert report["largest"], "the largest tags stand in every verdict"
    if any(item["share"] > 0.5 and item["bytes"] > 1 << 28 for item in report["largest"]):
        assert report["suspects"]


def test_a_tag_list_hides_no_suspect(tmp_path, capsys):
    names = tmp_path / "pooltag.txt"
    names.write_text("UlHT - http.sys - URL hash table\n")
    for words in ((), ("--pooltags", str(names))):
        report = verdict_on("06-ulht-row.txt", capsys, *words)
        assert [suspect["tag"] for suspect in report["suspects"]] == ["UlHT"]
    assert "http.sys" in report["verdict"]


def test_an_impossible_number_is_doubted(capsys):
    report = verdict_on("47-vm-escaped-118gb.txt", capsys)
    assert any("of physical memory: the number cannot be right" in line for line in report["warnings"])


def test_a_source_without_tags_leads_to_a_capture(capsys):
    report = verdict_on("46-vm-failed.txt", capsys)
    assert not any("largest tags" in step["why"] for step in report["next_steps"])
    assert report["next_steps"][0]["command"] == "poolleak record --recipe"
