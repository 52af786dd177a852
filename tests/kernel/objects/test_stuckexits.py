"""Processes that cannot exit: which driver has the request that their thread waits for."""

from __future__ import annotations

import struct

from dumps.forge import forge
from pykdext.pipeline.holders import list_processes
from pykdext.pipeline.sources import open_source

FLAGS, THREADS = 0x464, 0x5E0  # EPROCESS of 19041
REQUESTS, NEXT_THREAD = 0x4B0, 0x4E8  # ETHREAD of 19041
REQUEST_LINK = 0x20


def ring(machine, *links):
    """Link a head with its entries."""
    for number, va in enumerate(links):
        following = links[(number + 1) % len(links)]
        machine.write_virtual(va, struct.pack("<2Q", following, links[number - 1]))


def make_stuck(pending=2):
    """smss.exe is exiting, its two threads run, and the second has requests in pippo.sys."""
    machine = forge("requests", healthy_share=32, leaked=1000)
    process = machine.truth.objects.process(0x124)
    threads = [block.va + 0x10 + 0x20 + 0x30 for block in machine.truth.blocks[b"Thre"][:2]]
    requests = [block.va + 0x10 for block in machine.truth.blocks[b"Irp "][-599:][:pending]]
    machine.write_virtual(process.va + FLAGS, struct.pack("<I", 0x144D0C04))
    ring(machine, process.va + THREADS, *(thread + NEXT_THREAD for thread in threads))
    ring(machine, threads[0] + REQUESTS)
    ring(machine, threads[1] + REQUESTS, *(request + REQUEST_LINK for request in requests))
    return machine, process


def report_of(machine, folder):
    path = folder / "stuck.dmp"
    machine.save(path)
    with open_source(str(path)) as source:
        return list_processes(source, "handles", None)


def test_a_process_waits_for_a_request_in_a_driver(tmp_path):
    machine, process = make_stuck()
    report = report_of(machine, tmp_path)
    (stuck,) = report.stuck
    assert (stuck.process.address, stuck.pending) == (process.va, 2)
    assert sum(count for _, count in stuck.drivers) == 2
    assert all("pippo.sys" in name for name, _ in stuck.drivers)
    assert "smss.exe (pid 292) is exiting, but 2 of its threads still run: " in report.sentence
    assert "in pippo.sys, IRP_MJ_" in report.sentence
    assert stuck.process in report.processes


def test_without_requests_no_driver_is_named(tmp_path):
    machine, _ = make_stuck(pending=0)
    report = report_of(machine, tmp_path)
    assert report.stuck[0].drivers == ()
    assert report.sentence.endswith("threads still run; no request of theirs is pending in a driver.")


def test_lists_that_loop_or_lead_nowhere_end(tmp_path):
    machine, process = make_stuck()
    first = machine.truth.blocks[b"Thre"][0].va + 0x60
    machine.write_virtual(first + NEXT_THREAD, struct.pack("<Q", first + NEXT_THREAD))
    machine.write_virtual(first + REQUESTS, struct.pack("<2Q", 0xFFFFDEAD00000000, 0))
    report = report_of(machine, tmp_path)
    assert [stuck.process.address for stuck in report.stuck] == [process.va]


def test_a_healthy_machine_has_none(tmp_path):
    assert report_of(forge("zombies", healthy_share=32, leaked=100), tmp_path).stuck == ()
