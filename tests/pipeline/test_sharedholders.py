"""Several processes hold the objects of a tag, or one whose table is not all in the dump."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from dumps.forge import forge, scenarios
from dumps.forge.objects.population import HeldObjects, Population, ReferencedObjects
from pykdext.model import PoolTag
from pykdext.model.objects import HolderKind
from pykdext.model.report import Origin
from pykdext.pipeline.holders import find_holders
from pykdext.pipeline.sources import open_source
from pykdext.report.holderstext import render_holders_text
from pykdext.report.html.holderpages import render_holders_page


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
    assert "a handle leak of that process; many more are those of two.exe (pid 6008) 3,1" in report.sentence


def test_everybody_who_keeps_exited_processes_is_named(holders_of):
    """One handle of anybody keeps a process: to close those of one holder is not enough."""
    held = [
        HeldObjects(f"watch{number}.exe", 6004 + 4 * number, "Process", 60, zombie_image="cmd.exe")
        for number in range(2)
    ]
    report = holders_of("Proc", *held, build=17763, pages_lost=True)
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


@pytest.mark.parametrize(("type_name", "tag", "count"), [("Token", "Toke", 12_000), ("Thread", "Thre", 25_000)])
def test_fewer_objects_are_a_leak_of_references_where_that_is_not_usual(holders_of, type_name, tag, count):
    """A driver's blocks point at most of those without a handle; of 25,000 it would be said without them, too."""
    kept = ReferencedObjects("holder.sys", b"Hldr", 0x40, type_name, count, 64)
    report = holders_of(tag, drivers=("holder.sys",), referenced=kept, build=20348)
    assert (report.kind, report.grade) == (HolderKind.REFERENCES, "likely")
    assert f"Tag {tag}: at least {report.types[0].objects - report.types[0].handles:,} {type_name}" in report.sentence
    assert "of holder.sys points at 64 of" in report.sentence


@pytest.mark.parametrize(("type_name", "tag"), [("File", "File"), ("Section", "Sect")])
def test_files_and_sections_are_often_without_a_handle(holders_of, type_name, tag):
    kept = ReferencedObjects("holder.sys", b"Hldr", 0x40, type_name, 30_000, 8)
    report = holders_of(tag, referenced=kept, drivers=("holder.sys",))
    assert report.kind is HolderKind.NORMAL


def test_what_most_objects_tell_is_told_of_those_without_a_handle_only(holders_of):
    """Of these files no folder has most; those that a process has open are in one."""
    kept = ReferencedObjects("holder.sys", b"Hldr", 0x40, "File", 90_000, 300)
    report = holders_of("File", drivers=("holder.sys",), referenced=kept)
    told = sum(count for _, count in report.sample.unheld_creators)
    assert told <= report.sample.without_handles < report.sample.objects
    assert "most of these" not in report.sentence
    assert "made by HarddiskVolume2" not in report.sentence


def test_the_text_tells_where_objects_that_were_looked_at_came_from(holders_of):
    report = holders_of("ALPC", HeldObjects("one.exe", 6004, "ALPC Port", 3_100))
    text = render_holders_text(report, 80)
    looked = f"{report.sample.objects:,} objects looked at that one.exe (pid 6004) has handles to"
    assert looked in text
    assert "Of them: owned by one.exe (pid 6004)" in text
    assert "without a handle" not in text
    assert looked in render_holders_page(report, Origin("holders", "0", datetime(2026, 1, 1)))
