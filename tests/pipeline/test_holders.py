"""Who holds the objects of a tag: the scenarios' truth, on kernels of every generation, with pages missing too."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import replace

import pytest

from dumps.forge import forge, scenarios
from dumps.forge.objects.population import HeldObjects, Population
from pykdext.errors import TargetError
from pykdext.model import PoolTag
from pykdext.model.objects import HolderKind
from pykdext.pipeline.holders import PROCESS_ORDERS, find_holders, list_processes
from pykdext.pipeline.objectsample import sample_objects
from pykdext.pipeline.sources import open_source
from tests.helpers.forgedumps import unchanged_machine
from tests.helpers.objectmachines import make_machine, open_space

KERNELS = [
    ("x64", 7601),
    ("x64", 14393),
    ("x64", 19041),
    ("x64", 22000),
    ("arm64", 22000),
    ("x86", 3790),
    ("x86pae", 19041),
]


@contextmanager
def opened(machine, folder):
    path = folder / "holders.dmp"
    machine.save(path)
    with open_source(str(path)) as source:
        yield source


def holders_of(machine, tag, folder):
    with opened(machine, folder) as source:
        return find_holders(source, PoolTag.from_text(tag))


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize(("arch", "build"), KERNELS, ids=str)
def test_a_process_that_never_closes_its_handles(arch, build, pages_lost, tmp_path):
    machine = make_machine("handles", build, arch, leaked=6_000, pages_lost=pages_lost)
    report = holders_of(machine, "Even", tmp_path)
    assert (report.kind, report.grade) == (HolderKind.HANDLES, "proven")
    assert report.holders[0].process.label == "printmon.exe (pid 4312)"
    assert "printmon.exe (pid 4312) holds" in report.sentence
    assert report.sentence.endswith("handles read)." if pages_lost else "a handle leak of that process.")
    truth = machine.truth.objects.process(4312)
    if not pages_lost:
        assert f"holds {truth.handle_types['Event']:,} of the" in report.sentence


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize(("arch", "build"), KERNELS, ids=str)
def test_exited_processes_and_who_holds_them(arch, build, pages_lost, tmp_path):
    machine = make_machine("zombies", build, arch, pages_lost=pages_lost)
    report = holders_of(machine, "Proc", tmp_path)
    assert (report.kind, report.grade) == (HolderKind.ZOMBIES, "proven")
    assert report.zombies == 400 - len(machine.truth.objects.lost_processes)
    assert "are held by watchman.exe (pid 2428): a handle leak of that process" in report.sentence
    assert dict(report.zombie_images) == {"cmd.exe": report.zombies}


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize(("arch", "build"), KERNELS, ids=str)
def test_one_key_opened_again_and_again(arch, build, pages_lost, tmp_path):
    machine = make_machine("keys", build, arch, leaked=6_000, pages_lost=pages_lost)
    report = holders_of(machine, "Key ", tmp_path)
    assert report.kind is HolderKind.HANDLES
    assert "policysvc.exe (pid 5120) holds" in report.sentence
    assert machine.truth.objects.key_path in report.sentence


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize(("arch", "build"), KERNELS, ids=str)
def test_references_that_a_driver_forgot(arch, build, pages_lost, tmp_path):
    machine = make_machine("references", build, arch, leaked=3_000_000, pages_lost=pages_lost)
    report = holders_of(machine, "Toke", tmp_path)
    assert (report.kind, report.grade) == (HolderKind.REFERENCES, "likely")
    assert report.sample.creators[0][0] == "NtLmSsp, NETWORK SERVICE"
    assert report.referencing[0].module == "holder.sys"
    assert "holder.sys" in report.sentence
    assert all(census.handles_of(("Token",)) < 1_000 for census in report.holders)


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize(("arch", "build"), KERNELS, ids=str)
def test_a_lookaside_list_names_its_driver(arch, build, pages_lost, tmp_path):
    machine = make_machine("lookaside", build, arch, leaked=900_000, pages_lost=pages_lost)
    report = holders_of(machine, "Lkas", tmp_path)
    assert (report.kind, report.grade) == (HolderKind.LOOKASIDE, "proven")
    assert "globus.sys" in report.sentence
    assert report.lookasides[0].taken == 900_000


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize("build", [7601, 14393, 19041, 22000])
def test_driver_verifier_names_the_caller(build, pages_lost, tmp_path):
    report = holders_of(make_machine("verifier", build, leaked=900_000, pages_lost=pages_lost), "VfLk", tmp_path)
    has_records = build < 20348  # newer kernels keep a log alone, which holds calls that free, too
    assert (report.kind, report.grade) == (HolderKind.VERIFIER, "proven" if has_records else "likely")
    assert report.sentence.endswith(": a leak of that driver.")
    assert "lookas.sys+0x102b" in report.sentence
    assert ("tracked" in report.sentence) == has_records


def test_a_few_allocations_under_driver_verifier_are_no_leak(tmp_path):
    report = holders_of(make_machine("verifier", leaked=900_000), "VfGl", tmp_path)
    assert report.sentence == (
        "Tag VfGl: Driver Verifier tracked 11 outstanding allocations to globus.sys, most of them at globus.sys+0x102b."
    )


def test_other_users_of_a_tag_are_not_those_that_driver_verifier_watches(tmp_path):
    """Of 900,000 blocks Driver Verifier counts ten of the driver that it watches: who has the others is not said."""
    machine = forge("verifier", build=22000, leaked=900_000, healthy_share=32)
    (driver,) = [driver for driver in machine.truth.objects.verified if driver.driver == "lookas.sys"]
    machine.write_virtual(driver.va + 0x70, struct.pack("<4I4Q", 0, 10, 0, 10, 0, 10_560, 0, 10_560))
    report = holders_of(machine, "VfLk", tmp_path)
    assert report.kind is HolderKind.NOT_OBJECTS
    assert "lookas.sys" not in report.sentence


@pytest.mark.parametrize("tag", ["Even", "Proc", "File", "Sect", "Thre", "Toke", "Key ", "ALPC"])
def test_on_a_healthy_machine_nobody_stands_out(tag, tmp_path):
    machine = unchanged_machine("lookaside", leaked=1)
    report = holders_of(machine, tag, tmp_path)
    assert report.kind is HolderKind.NORMAL
    assert report.sentence.endswith("Nobody stands out.")


def test_a_tag_of_no_type(tmp_path):
    report = holders_of(make_machine("handles"), "NtFs", tmp_path)
    assert report.kind is HolderKind.NOT_OBJECTS
    assert report.types == ()


def test_far_more_blocks_than_objects(tmp_path):
    """Windows's own counters tell when a tag is not that of the objects alone."""
    machine = forge("toke")
    report = holders_of(machine, "Toke", tmp_path)
    assert report.kind is HolderKind.UNKNOWN  # this machine has no objects at all
    assert "not known" in report.sentence


def test_the_handle_tables_themselves(tmp_path):
    report = holders_of(make_machine("handles", leaked=6_000), "Obtb", tmp_path)
    assert report.kind is HolderKind.TABLES
    assert "printmon.exe (pid 4312)" in report.sentence


@pytest.mark.parametrize("order", PROCESS_ORDERS)
def test_processes_in_every_order(order, tmp_path):
    machine = make_machine("zombies")
    with opened(machine, tmp_path) as source:
        report = list_processes(source, order, 5)
    alive = [process for process in machine.truth.objects.processes if not process.exited_at]
    keys = {
        "handles": lambda process: process.handles,
        "pool": lambda process: process.nonpaged_charge + process.paged_charge,
        "commit": lambda process: process.commit_pages,
        "zombies": lambda process: 400 * (process.pid == 2428),
    }
    expected = sorted(alive, key=lambda process: (-keys[order](process), process.pid))[:5]
    assert [process.pid for process in report.processes] == [process.pid for process in expected]
    assert report.zombies == 400
    assert "400 more have exited and are still held" in report.sentence
    if order == "zombies":
        assert report.held_zombies[0] == (2428, 400)


def test_a_log_holds_no_objects(tmp_path):
    log = tmp_path / "p.json"
    from pykdext.cli.main import main

    machine = make_machine("handles")
    machine.save(tmp_path / "m.dmp")
    assert main(["snapshot", str(tmp_path / "m.dmp"), "-o", str(log)]) == 0
    with open_source(str(log)) as source, pytest.raises(TargetError, match="found a source without memory"):
        find_holders(source, PoolTag.from_text("Even"))


def test_the_one_who_holds_exited_processes_need_not_be_among_those_with_most_handles(tmp_path):
    machine = forge("zombies", leaked=300)
    report = holders_of(machine, "Proc", tmp_path)
    truth = machine.truth.objects.process(2428)
    assert report.holders[0].process.label == "watchman.exe (pid 2428)"
    assert sum(process.handles > truth.handles for process in machine.truth.objects.processes) > 8
    assert report.grade == "proven"


@pytest.mark.parametrize(("arch", "build"), [("x64", 7601), ("arm64", 22000), ("x86pae", 7601)], ids=str)
def test_requests_that_a_driver_does_not_complete(arch, build, tmp_path):
    machine = forge("requests", build=build, arch=arch, healthy_share=32)
    with opened(machine, tmp_path) as source:
        requests = find_holders(source, PoolTag.from_text("Irp"))
        lists = find_holders(source, PoolTag.from_text("Mdl"))
    assert (requests.kind, requests.grade) == (HolderKind.CONTENTS, "likely")
    assert requests.sample.objects == 600
    assert dict(requests.sample.creators)["sent to no driver"] == 36
    assert requests.sentence.endswith("are in pippo.sys, IRP_MJ_READ: that driver does not complete them.")
    assert (
        "of 600 descriptor lists that could be read 600 (100%) describe pages of smss.exe (pid 292)" in lists.sentence
    )


@pytest.mark.parametrize(
    ("arch", "build", "account"),
    [("x64", 9600, True), ("arm64", 22000, True), ("x86pae", 7601, True), ("x86", 3790, False)],
    ids=str,
)
def test_what_tokens_and_sections_are_of(arch, build, account, tmp_path):
    machine = forge("references", build=build, arch=arch, healthy_share=4, leaked=200_000)
    tokens = holders_of(machine, "Toke", tmp_path)
    sections = holders_of(machine, "Sect", tmp_path)
    told = {name for name, _ in tokens.sample.creators}
    assert {"NtLmSsp, NETWORK SERVICE", "Advapi, SYSTEM"} <= told
    assert ("User32, CONTOSO\\alice" if account else "User32, logon 0x5a1f3") in told
    assert tokens.sample.accounts == (("CONTOSO\\alice", "CONTOSO\\bob") if account else ())
    assert {name for name, _ in sections.sample.creators} == {
        "maps HarddiskVolume2\\Windows\\System32\\ntdll.dll (Ntfs.sys)",
        "maps memory without a file",
    }


@pytest.mark.parametrize(
    ("arch", "build", "caller"),
    [
        ("x64", 6002, "afd.sys+0x1060"),
        ("x64", 7601, "afd.sys+0x1060"),
        ("x64", 22000, "afd.sys+0x1041"),
        ("arm64", 22000, "afd.sys+0x1041"),
        ("x86pae", 7601, "afd.sys+0x1060"),
        ("x86pae", 9600, "afd.sys+0x1041"),
    ],
    ids=str,
)
def test_who_made_registrations_ports_and_threads(arch, build, caller, tmp_path):
    """Since Windows 8 a driver's registration keeps where it called from, before only what is to be called."""
    machine = make_machine("keys", build, arch)
    told = {}
    with open_space(machine, tmp_path) as space:
        for tag in ("EtwR", "ALPC", "Thre", "Key "):
            sample = sample_objects(space, PoolTag.from_text(tag)).sample
            told[tag] = {name for name, _ in sample.creators}
    assert {f"registered by {caller}", "registered by System (pid 4)"} <= told["EtwR"]
    assert all("registered by" in name for name in told["EtwR"])
    assert "owned by System (pid 4)" in told["ALPC"]
    assert told["Thre"] == {"starts at ntoskrnl.exe+0x1000"}
    assert "opened by pid 5120, now policysvc.exe" in told["Key "]


def test_redaction_takes_out_the_names_of_people(tmp_path, capsys):
    from pykdext.cli.main import main

    machine = forge("references", healthy_share=4, leaked=200_000)
    path = tmp_path / "people.dmp"
    machine.save(path)
    main(["holders", "Toke", str(path), "--redact", "--format", "json"])
    shown = capsys.readouterr().out
    assert "alice" not in shown
    assert "person-1" in shown


@pytest.mark.parametrize(
    ("arch", "build"), [("x64", 19041), ("x64", 6002), ("arm64", 22000), ("x86pae", 7601)], ids=str
)
def test_files_are_counted_by_volume_folder_and_driver(arch, build, tmp_path):
    """The driver of a file on a disk is its file system, not that of the volume's device."""
    report = holders_of(forge("zombies", build=build, arch=arch, leaked=100, healthy_share=8), "File", tmp_path)
    told = {name for name, _ in report.sample.creators}
    assert "HarddiskVolume2\\Windows\\System32\\config (Ntfs.sys)" in told
    assert not any("report.docx" in name or "storport" in name for name in told)
    assert "Afd\\Endpoint (afd.sys)" in told or "HarddiskVolume2\\Endpoint (Ntfs.sys)" in told


@pytest.mark.parametrize(
    ("type_name", "tag", "told"),
    [
        ("Thread", "Thre", "most of those looked at: starts at ntoskrnl.exe+0x1000"),
        ("EtwRegistration", "EtwR", "most of those looked at: registered by printmon.exe (pid 4312)"),
        ("Section", "Sect", "most of those looked at: maps HarddiskVolume2\\Windows\\System32\\ntdll.dll (Ntfs.sys)"),
        ("File", "File", "handles to File objects (99%): a handle leak"),
    ],
)
def test_objects_that_one_process_holds_tell_who_made_them(type_name, tag, told, tmp_path, monkeypatch):
    """A handle leak of any type; where no one place made most of them, none is told."""
    held = HeldObjects("printmon.exe", 4312, type_name, 4_000, session=1)
    scenario = replace(scenarios._BY_NAME["handles"], populate=lambda _: Population(held=(held,)))
    monkeypatch.setitem(scenarios._BY_NAME, "handles", scenario)
    report = holders_of(forge("handles", healthy_share=64), tag, tmp_path)
    assert (report.kind, report.sample.blocks) == (HolderKind.HANDLES, 0)
    assert report.sample.objects >= 1_000
    assert told in report.sentence
