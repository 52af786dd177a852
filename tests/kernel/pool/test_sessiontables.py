"""The tag tables of session pool, which only a session's own page tables lead to: equal to the truth, and with gaps."""

from __future__ import annotations

import copy
import json
from functools import cache

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.kernel.memory.sessions import read_sessions
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.kernel.pool import sessiontables
from pykdext.pipeline.sources import open_source
from pykdext.units import format_bytes
from tests.helpers.fakepykd import FakePykd
from tests.helpers.windbgscreens import type_command

BUILDS = (7601, 9600, 14393, 17763, 19041, 20348)
TABLE = 0xFFFFF900C1200000


def machine_of(build):
    return forge("zombies", build=build, leaked=12, healthy_share=64, session_pool=True)


unhurt = cache(machine_of)


def ask(machine, folder, capsys, *command):
    dump = folder / "sessions.dmp"
    machine.save(dump)
    status = main([*(command or ("used", "--pool", "session")), str(dump), "--format", "json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if status < 2 else captured.err


def sums(machine, sessions=None):
    found = {}
    for session, tags in machine.truth.session_tags.items():
        if sessions is None or session in sessions:
            for tag, row in tags.items():
                found[tag] = tuple(map(sum, zip(found.get(tag, (0,) * 6), row)))
    return found


def read_of(document):
    return {
        bytes.fromhex(row["hex"]): tuple(
            row[pool][counter] for pool in ("nonpaged", "paged") for counter in ("allocs", "frees", "bytes")
        )
        for row in document["tags"]
    }


@pytest.mark.parametrize("build", BUILDS)
def test_the_sum_of_all_sessions_equals_the_truth(build, tmp_path, capsys):
    machine = unhurt(build)
    status, document = ask(machine, tmp_path, capsys)
    assert read_of(document) == sums(machine)
    assert status == 0 and document["coverage"]["expansion_table"] == "read"
    assert "the table is of a session pool, not of the system's pools: the sum of 2 sessions" in document["warnings"]


def test_rows_of_all_sessions_together_are_bounded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sessiontables, "MOST_ROWS_READ", 400)
    machine = unhurt(19041)
    status, document = ask(machine, tmp_path, capsys)
    assert status == 1 and read_of(document) == sums(machine, {0})
    assert any("no more than 400 rows are read of all sessions" in text for text in document["warnings"])


def test_the_verdict_on_memory_says_what_session_pool_holds(tmp_path, capsys):
    machine = unhurt(19041)
    status, document = ask(machine, tmp_path, capsys, "memory")
    held = {tag: row[2] + row[5] for tag, row in sums(machine).items()}
    largest = max(held, key=held.get)
    sentence = document["verdict"].partition("Session pool of 2 sessions, which these tags do not count, holds ")[2]
    assert sentence.startswith(format_bytes(sum(held.values())))
    assert sentence.endswith(f"its largest tag is {largest.decode()} ({format_bytes(held[largest])}).")
    assert document["next_steps"][-1]["command"].startswith("poolleak used --pool session ")
    assert status in (0, 1)


def test_in_the_debugger_the_file_of_its_dump_is_read(tmp_path):
    machine = unhurt(19041)
    dump = tmp_path / "sessions.dmp"
    machine.save(dump)
    ended = type_command("poolleak used --pool session --tag Gh05", FakePykd.of_machine(machine, dump_path=str(dump)))
    assert "sum of 2 sessions" in " ".join(ended.text.split())
    assert f"{sums(machine)[b'Gh05'][5]:,}" in ended.text

    live = type_command("poolleak used --pool session", FakePykd.of_machine(machine, system="local"))
    assert live.status == 3 and "no tags of session pool: session space is mapped by" in " ".join(live.text.split())


def root_of(machine, session):
    """The page frame of a session's top table, as its processes name it."""
    process = next(each for each in machine.truth.objects.processes if each.session == session)
    return int.from_bytes(machine.read_virtual(process.va + 0x28, 8), "little") >> 12


def frame_of_table(machine, session, page=1):
    frame, entries = root_of(machine, session), machine.kernel.architecture.entries
    for level in range(4):
        place = entries.entry_offset(TABLE + (page << 12), level)
        frame = int.from_bytes(machine.memory.pages[frame][place : place + 8], "little") >> 12 & 0xFFFFFFFFF
    return frame


def test_a_session_without_its_page_tables_is_missing_by_name(tmp_path, capsys):
    machine = machine_of(19041)
    machine.memory.omitted.add(root_of(machine, 1))
    status, document = ask(machine, tmp_path, capsys)
    assert status == 1
    assert read_of(document) == sums(machine, {0})
    assert any("session pool of 1 of 2 sessions was read (session 1: the page" in text for text in document["warnings"])


def test_a_table_that_lacks_a_page_is_partial(tmp_path, capsys):
    machine = machine_of(19041)
    machine.memory.omitted.add(frame_of_table(machine, 0))
    status, document = ask(machine, tmp_path, capsys)
    assert status == 1
    truth, whole = sums(machine), sums(machine, {1})
    assert all(whole[tag][5] <= read[5] <= truth[tag][5] for tag, read in read_of(document).items())
    assert any(text.startswith("session 0: tag table") for text in document["warnings"])


def test_what_no_session_maps_is_not_told(tmp_path, capsys):
    machine = machine_of(19041)
    for session in (0, 1):
        machine.memory.omitted.add(root_of(machine, session))
    status, error = ask(machine, tmp_path, capsys)
    assert status == 3
    assert "no tags of session pool: session 0: the page tables of its processes are not in memory" in error


def test_a_table_of_rubbish_is_not_believed(tmp_path, capsys):
    machine = machine_of(19041)
    for session in (0, 1):
        machine.memory.pages[frame_of_table(machine, session)][:] = b"\xff" * 0x1000
    status, document = ask(machine, tmp_path, capsys)
    assert status == 1
    truth = sums(machine)
    assert all(read[5] <= truth[tag][5] for tag, read in read_of(document).items())
    assert len(read_of(document)) > 50
    assert any("not believed" in text for text in document["warnings"])


@pytest.mark.parametrize(
    ("arch", "build", "words"),
    [
        ("x64", 22000, "counts session pool in paged pool"),
        ("x86", 7601, "where the table of session pool is"),
    ],
)
def test_a_kernel_that_has_or_tells_no_table_says_so(arch, build, words, tmp_path, capsys):
    machine = forge("zombies", build=build, arch=arch, leaked=12, healthy_share=64)
    status, error = ask(machine, tmp_path, capsys)
    assert status == 3 and words in error and error.count("\n") == 1


def test_a_log_has_no_session_pool(tmp_path, capsys):
    machine = unhurt(19041)
    dump = tmp_path / "m.dmp"
    machine.save(dump)
    main(["snapshot", str(dump), "-o", str(tmp_path / "s.json")])
    assert main(["used", str(tmp_path / "s.json"), "--pool", "session"]) == 3
    assert "session pool is read in a dump's memory" in capsys.readouterr().err


def test_a_session_whose_structure_the_kernel_does_not_map_is_charged_what_its_processes_see(tmp_path, capsys):
    machine = machine_of(19041)
    own = machine.truth.objects.processes
    spaces = {each.session: each.session_va for each in own if each.session is not None}
    for session, va in spaces.items():  # its page is mapped by the session's tables alone from now on
        hide(machine, va, root_of(machine, session))
    with open_source(str(save(machine, tmp_path))) as source:
        processes = ObjectSpace(source.kernel).processes.processes
        through_kernel = read_sessions(source.kernel, processes)
        through_own = read_sessions(source.kernel, processes, source.kernel.target)
    assert {each.committed_bytes for each in through_kernel} == {None}
    assert {each.number: each.committed_bytes >> 12 for each in through_own} == {0: 700, 1: 701}


def save(machine, folder):
    machine.save(folder / "sessions.dmp")
    return folder / "sessions.dmp"


def hide(machine, va, root):
    """Give the session a top table whose entry for an address leads on to tables of its own, and unmap it elsewhere."""
    space, entries = machine.space, machine.kernel.architecture.entries
    content, view = machine.read_virtual(va, 0x1000), copy.copy(space)
    view.root_pfn = root
    place = entries.entry_offset(va, 0)
    kept = bytes(machine.memory.pages[root][place : place + 8])
    machine.memory.pages[root][place : place + 8] = bytes(8)
    view.store(va, content)
    assert bytes(machine.memory.pages[root][place : place + 8]) != kept
    space.unmap(va, 0x1000)
