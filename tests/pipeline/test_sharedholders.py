"""Several processes hold the objects of a tag, or one whose table is not all in the dump."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dumps.forge import forge, scenarios
from dumps.forge.objects.population import HeldObjects, Population
from pykdext.model import PoolTag
from pykdext.model.objects import HolderKind
from pykdext.pipeline.holders import find_holders
from pykdext.pipeline.sources import open_source


@pytest.fixture
def holders_of(tmp_path, monkeypatch):
    """Return a function that forges a machine of some populations and asks who holds a tag."""

    def ask(tag, *held, drivers=(), referenced=None, **wishes):
        population = Population(held=held, referenced=referenced)
        scenario = replace(scenarios._BY_NAME["handles"], populate=lambda _: population, drivers=drivers)
        monkeypatch.setitem(scenarios._BY_NAME, "handles", scenario)
        path = tmp_path / "shared.dmp"
        forge("handles", **{"healthy_share": 64, **wishes}).save(path)
        with open_source(str(path)) as source:
            return find_holders(source, PoolTag.from_text(tag))

    return ask


def test_two_processes_that_share_a_leak_are_both_named(holders_of):
    report = holders_of(
        "Even", HeldObjects("one.exe", 6004, "Event", 6_300), HeldObjects("two.exe", 6008, "Event", 6_200)
    )
    assert (report.kind, report.grade, report.holder.pid) == (HolderKind.HANDLES, "likely", 6004)
    assert "Tag Even: 2 processes hold 12,5" in report.sentence
    assert "one.exe (pid 6004) 6,3" in report.sentence
    assert "two.exe (pid 6008) 6,2" in report.sentence
    assert report.sentence.endswith(": a handle leak of each of these.")


def test_processes_of_one_program_are_named_by_it(holders_of):
    held = [HeldObjects("chrome.exe", 6004 + 4 * number, "Event", 3_100) for number in range(4)]
    report = holders_of("Even", *held)
    assert "4 processes of chrome.exe hold 12,4" in report.sentence
    assert report.sentence.endswith("a handle leak of that program.")
    assert (report.kind, report.holder.image) == (HolderKind.HANDLES, "chrome.exe")


def test_whoever_else_has_many_is_named_beside_the_one_with_most(holders_of):
    report = holders_of(
        "Even", HeldObjects("one.exe", 6004, "Event", 4_000), HeldObjects("two.exe", 6008, "Event", 3_100)
    )
    assert (report.grade, report.holder.pid) == ("proven", 6004)
    assert "a handle leak of that process; more than usual have, too: two.exe (pid 6008) 3,1" in report.sentence


@pytest.mark.parametrize("lost", [False, True])
def test_everybody_who_keeps_exited_processes_is_named(holders_of, lost):
    """One handle of anybody keeps a process: to close those of one holder is not enough."""
    held = [
        HeldObjects(f"watch{number}.exe", 6004 + 4 * number, "Process", 60, zombie_image="cmd.exe")
        for number in range(2)
    ]
    report = holders_of("Proc", *held, build=17763, pages_lost=lost)
    assert (report.kind, report.grade) == (HolderKind.ZOMBIES, "proven")
    assert "are held by 2 processes: watch" in report.sentence
    assert all(f"watch{number}.exe (pid {6004 + 4 * number})" in report.sentence for number in range(2))
    assert report.sentence.endswith("a handle leak of each of these.")


def test_the_part_that_can_be_read_of_a_table_makes_its_process_likely(holders_of):
    """Half of its pages are missing, and nobody else has handles to exited processes."""
    watcher = HeldObjects("watch.exe", 6004, "Process", 390, zombie_image="cmd.exe")
    report = holders_of("Proc", watcher, build=6002, pages_lost=True, healthy_share=8)
    assert (report.kind, report.grade, report.holder.pid) == (HolderKind.ZOMBIES, "likely", 6004)
    assert "are still held. Of the handles to them that were read nearly all, " in report.sentence
    assert "could not be read: a handle leak of that process." in report.sentence
