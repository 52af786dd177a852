"""What is still told of holders where the objects that all else hangs on are not in the dump."""

from __future__ import annotations

import json

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.kernel.objects.objecttypes import TypeReader
from pykdext.model import PoolTag
from pykdext.model.objects import HolderKind
from pykdext.pipeline.holders import find_holders, list_processes
from pykdext.pipeline.sources import open_source
from pykdext.report.holderstext import render_holders_text
from tests.helpers.fakepykd import FakePykd
from tests.helpers.windbgscreens import type_command

KERNELS = [("x64", 3790), ("x64", 19041), ("arm64", 22000), ("x86pae", 9600)]
HELD = "120 exited processes, all cmd.exe, are held by watchman.exe (pid 2428): a handle leak of that process."


def machine_of(arch, build):
    return forge("zombies", build=build, arch=arch, leaked=120, healthy_share=64)


def type_named(machine, name):
    return next(kind for kind in machine.truth.objects.types if kind.name == name)


def ask(machine, folder, *tags):
    machine.save(folder / "lost.dmp")
    with open_source(str(folder / "lost.dmp")) as source:
        return [find_holders(source, PoolTag.from_text(tag)) for tag in tags], list_processes(source, "handles", None)


@pytest.mark.parametrize(("arch", "build"), KERNELS, ids=str)
def test_without_the_system_process_the_others_are_read(arch, build, tmp_path):
    """Their layout is told by one whose number stands in its handle table, too."""
    machine = machine_of(arch, build)
    system = machine.truth.objects.process(4)
    machine.omit(system.va, 8)
    (report,), listed = ask(machine, tmp_path, "Proc")
    gone = [item for item in machine.truth.objects.processes if item.va >> 12 == system.va >> 12]
    assert listed.found == len(machine.truth.objects.processes) - len(gone)
    assert {item.pid for item in listed.processes}.isdisjoint(item.pid for item in gone)
    assert HELD in report.sentence
    assert any("their list is torn" in warning for warning in report.warnings)


@pytest.mark.parametrize(("arch", "build"), KERNELS[2:], ids=str)
def test_exited_processes_need_no_type(arch, build, tmp_path):
    machine = machine_of(arch, build)
    system = machine.truth.objects.process(4)
    for kind in machine.truth.objects.types:
        if kind.va >> 12 != system.va >> 12:
            machine.omit(kind.va, 1)
    (processes, events), _ = ask(machine, tmp_path, "Proc", "Even")
    assert processes.types == ()
    assert HELD in processes.sentence
    assert (events.kind, events.types) == (HolderKind.UNKNOWN, ())
    assert "no type of objects bears it" not in events.sentence


def test_without_the_type_of_types_the_kernels_table_leads_to_the_others(tmp_path):
    machine = machine_of("x64", 19041)
    machine.omit(type_named(machine, "Type").va, 1)
    page = type_named(machine, "Type").va >> 12
    left = [kind for kind in machine.truth.objects.types if kind.va >> 12 != page]
    tag, lost = left[-1].key.decode(), type_named(machine, "Token")
    (found, gone), _ = ask(machine, tmp_path, tag, lost.key.decode())
    assert found.types[0].objects == left[-1].objects
    assert lost not in left
    assert gone.kind is HolderKind.UNKNOWN
    assert f"only {len(left)} types of objects could be read, none that bears it" in gone.sentence


def test_names_that_are_paged_out_are_told_by_the_tag(tmp_path, monkeypatch):
    monkeypatch.setattr(TypeReader, "read_string", lambda *_: None)
    (report,), _ = ask(machine_of("x64", 22000), tmp_path, "Proc")
    assert HELD in report.sentence
    assert [(kind.name, kind.label) for kind in report.types] == [(None, "Process")]
    assert next(line for line in render_holders_text(report, 80).splitlines() if line.startswith("Process  "))
    assert any("the names of 37 of 37 are paged out" in warning for warning in report.warnings)


def test_where_no_handle_table_is_read_nobody_is_said_not_to_stand_out(tmp_path):
    machine = machine_of("x64", 19041)
    for process in machine.truth.objects.processes:
        machine.omit(process.va, 1)
    (report,), listed = ask(machine, tmp_path, "Toke")
    assert listed.found == 0
    assert report.kind is HolderKind.UNKNOWN
    assert report.sentence.endswith("No handle table could be read: who has them is not known.")


@pytest.mark.parametrize(
    ("name", "handles", "threads", "charged"),
    [("triage_x64.dmp", 225, 147, (272, 0)), ("triage_arm64.dmp", 1_301, 291, (136, 0))],
)
def test_a_small_dump_has_no_tags_but_processes(evidence, name, handles, threads, charged, capsys):
    """The process System of two real machines; its tags are not in small dumps, which is said."""
    path = str(evidence / "dumps" / name)
    assert main(["processes", path, "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    (system,) = document["processes"]
    assert (system["image"], system["pid"], system["handles"], system["active_threads"]) == (
        "System",
        4,
        handles,
        threads,
    )
    assert (system["nonpaged_charge_bytes"], system["paged_charge_bytes"]) == charged
    assert document["warnings"][0].startswith("tag tables: a small memory dump holds no pool tag tables")
    assert main(["holders", "Toke", path, "--width", "80"]) == 1
    shown = capsys.readouterr().out
    assert "is not known. [unknown]" in " ".join(shown.split())
    assert max(map(len, shown.splitlines()[1:])) <= 80


def test_a_kernel_without_tag_tables_tells_its_processes(tmp_path, capsys):
    machine = machine_of("x64", 19041)
    for number in range(4):
        machine.omit(machine.addresses[f"table:{number}"], 4_097 * 0x60)
    machine.save(tmp_path / "lost.dmp")
    assert main(["processes", str(tmp_path / "lost.dmp"), "--sort", "zombies"]) == 1
    assert "120 more have exited and are still held, all cmd.exe" in " ".join(capsys.readouterr().out.split())
    assert main(["used", str(tmp_path / "lost.dmp")]) == 3
    capsys.readouterr()
    assert main(["holders", "Proc", str(tmp_path / "lost.dmp"), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["bytes"], document["outstanding"]) == (None, None)
    assert document["verdict"] == f"Tag Proc: {HELD}"


def test_a_session_without_tag_tables_has_its_links():
    machine = machine_of("x64", 19041)
    for number in range(4):
        machine.omit(machine.addresses[f"table:{number}"], 4_097 * 0x60)
    ended = type_command("poolleak holders Proc", FakePykd.of_machine(machine))
    assert "Tag tables located by" not in ended.text
    assert "are held by watchman.exe (pid 2428)" in " ".join(ended.text.split())
    assert "!handle 0 3 0n2428" in "".join(piece for piece, is_markup in ended.pieces if is_markup)


@pytest.mark.parametrize("build", [7601, 20348])
def test_driver_verifiers_drivers_are_found_without_symbols(build, tmp_path):
    """Their tree is somewhere in nt's data: it is known by the images and the names that it leads to."""
    machine = forge("verifier", build=build, leaked=400_000, healthy_share=64, known_kernel=False)
    truth = {driver.driver: driver for driver in machine.truth.objects.verified}
    (report,), _ = ask(machine, tmp_path, "VfLk")
    (driver,) = report.verified
    assert (driver.name, driver.nonpaged_allocations, driver.nonpaged_bytes) == (
        "lookas.sys",
        truth["lookas.sys"].allocations,
        truth["lookas.sys"].nonpaged_bytes,
    )
    assert sum(caller.blocks for caller in driver.callers) == truth["lookas.sys"].tracked
    assert (report.kind, report.grade) == (HolderKind.VERIFIER, "proven" if build < 20348 else "likely")


def test_a_tree_that_leads_to_other_names_is_not_that_of_drivers(tmp_path):
    machine = forge("verifier", leaked=400_000, healthy_share=64, known_kernel=False)
    for driver in machine.truth.objects.verified:
        entry = int.from_bytes(machine.read_virtual(driver.va, 8), "little")
        machine.write_virtual(entry + 0x40, "x".encode("utf-16-le"))
    (report,), _ = ask(machine, tmp_path, "VfLk")
    assert report.verified == ()
    assert any("nothing tells where its drivers are" in warning for warning in report.warnings)


@pytest.mark.parametrize(("arch", "build"), [("x64", 6002), ("x86", 2600), ("x86pae", 3790)], ids=str)
def test_the_list_of_older_driver_verifiers_is_found(arch, build, tmp_path):
    """One driver of it was never loaded; XP keeps its allocations elsewhere and tells the counters only."""
    machine = forge("verifier", build=build, arch=arch, leaked=200_000, healthy_share=64)
    truth = {driver.driver: driver for driver in machine.truth.objects.verified}
    (report,), _ = ask(machine, tmp_path, "VfLk")
    (driver,) = report.verified
    leaking = truth["lookas.sys"]
    assert (driver.name, driver.nonpaged_allocations) == ("lookas.sys", leaking.allocations)
    assert driver.nonpaged_bytes == leaking.nonpaged_bytes
    assert sum(caller.blocks for caller in driver.callers) == leaking.tracked
    assert [caller.rva for caller in driver.callers] == list(leaking.callers)
    assert report.grade == ("proven" if leaking.tracked else "likely")


def test_a_list_of_other_images_is_not_that_of_driver_verifier(tmp_path):
    machine = forge("verifier", build=6002, leaked=200_000, healthy_share=64)
    for driver in machine.truth.objects.verified:
        machine.write_virtual(driver.va + 0x30, bytes(8))  # its last address
    (report,), _ = ask(machine, tmp_path, "VfLk")
    assert report.verified == ()
    assert any("nothing tells where its drivers are" in warning for warning in report.warnings)


def test_counts_of_a_process_that_cannot_be_are_not_told(tmp_path):
    machine = machine_of("x64", 19041)
    victim = next(item for item in machine.truth.objects.processes if item.image == "lsass.exe")
    for offset, data in ((0x5F0, b"\xee" * 4), (0x470, b"\xff" * 16), (0x648, b"\x7f" * 8)):
        machine.write_virtual(victim.va + offset, data)
    _, listed = ask(machine, tmp_path, "Proc")
    found = next(item for item in listed.processes if item.pid == victim.pid)
    assert (found.active_threads, found.commit_pages) == (None, None)
    assert (found.nonpaged_charge_bytes, found.paged_charge_bytes) == (None, None)
    assert found.handles == victim.handles


def test_many_lost_handle_tables_are_one_warning(tmp_path):
    machine = machine_of("x64", 19041)
    with_tables = [item for item in machine.truth.objects.processes if not item.exited_at]
    tables = [int.from_bytes(machine.read_virtual(item.va + 0x570, 8), "little") for item in with_tables]
    for table in tables:
        machine.omit(table, 1)
    (report,), _ = ask(machine, tmp_path, "Even")
    lost = [warning for warning in report.warnings if "handle table" in warning]
    assert len(lost) == 5
    assert lost[-1] == f"handle tables of {len(tables) - 4} more processes could not be read whole"
