"""``poolleak memory``: where the memory is, in every form."""

from __future__ import annotations

import csv
import json
import re
import struct

import pytest

from dumps.forge import forge
from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.pageframes import plan_frames
from pykdext.cli.main import main
from pykdext.kernel.memory.regions import read_regions
from pykdext.model import Machine, TargetFacts
from pykdext.model.memory import FrameUse
from pykdext.pipeline.memory import report_memory
from pykdext.pipeline.sources import open_source
from pykdext.work import Work

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema (extra test) is not installed")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A machine whose system PTEs map more than the pools hold."""
    path = tmp_path_factory.mktemp("memory") / "mapped.dmp"
    machine = forge("quiet", build=22000, memory=MemoryPlan(), page_frames=plan_frames(0x40000, PTEs=6000))
    machine.save(path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "plain.dmp"
    forge("quiet", build=22000, memory=MemoryPlan()).save(path)
    return path


def test_the_verdict_says_what_fills_the_machine(mapped, capsys):
    assert main(["memory", str(mapped), "--whole", "--width", "80"]) == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    assert re.search("The pools are not what fills this machine: about [0-9]{3} MB are system PTE mappings", words)
    assert "TrackPtes" in words and "!sysptes" in words
    assert max(map(len, text.splitlines()[1:])) <= 80


def test_nothing_is_said_to_fill_a_machine_that_is_not_full(plain, capsys):
    assert main(["memory", str(plain)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "No memory that tags miss weighs more than the pools" in words
    assert "no record of the page frame database that was looked at is in the dump" in words


def test_json_follows_its_schema_and_has_the_numbers_of_the_text(mapped, capsys):
    main(["schema", "memory/1"])
    schema = json.loads(capsys.readouterr().out)
    main(["memory", str(mapped), "--whole", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema)
    assert document["dominant"] == "system PTE mappings"
    uses = {row["use"]: row["bytes"] for row in document["frames"]["uses"]}
    assert document["untagged"][0]["bytes"] == uses["system PTEs"]
    assert document["commit"]["unexplained_bytes"] == document["commit"]["committed_bytes"] - sum(
        line["bytes"] for line in document["commit"]["lines"]
    )


def test_processes_are_told_by_what_they_were_charged(tmp_path, capsys):
    machine = forge("zombies", leaked=60, healthy_share=32, memory=MemoryPlan())
    path = tmp_path / "zombies.dmp"
    machine.save(path)
    main(["schema", "memory/1"])
    schema = json.loads(capsys.readouterr().out)
    main(["memory", str(path), "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema)
    found = document["processes"]
    told = {process.pid: process for process in machine.truth.objects.processes}
    assert {row["pid"]: row["bytes"] for row in found["processes"]} == {
        pid: process.commit_pages << 12 for pid, process in told.items()
    }
    assert {row["pid"]: (row["working_set_bytes"], row["locked_bytes"]) for row in found["processes"]} == {
        pid: (process.working_set_pages << 12, process.threads << 12) for pid, process in told.items()
    }
    assert [row["pid"] for row in found["processes"] if row["has_exited"]]
    assert found["committed_bytes"] == sum(process.commit_pages << 12 for process in told.values())
    assert found["unknown"] == 0
    assert sorted(found["processes"], key=lambda row: -row["bytes"]) == found["processes"]
    main(["memory", str(path), "--width", "80"])
    text = capsys.readouterr().out
    assert f"by {len(told):,} processes" in text and max(map(len, text.splitlines()[1:])) <= 80
    main(["memory", str(path), "--format", "csv"])
    rows = [
        row for row in csv.DictReader(capsys.readouterr().out.splitlines()) if row["table"] == "committed by process"
    ]
    assert len(rows) == len(told) and {row["of"] for row in rows} == {"running", "exited"}


def test_csv_has_a_line_for_each_use_and_each_counter(mapped, capsys):
    main(["memory", str(mapped), "--format", "csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["table"] for row in rows} == {"pages by use", "committed"}
    assert any(row["name"] == "Pages For MDLs" and row["of"] == "drivers" for row in rows)


def test_the_page_has_one_bar(mapped, tmp_path):
    pytest.importorskip("jinja2", reason="jinja2 (extra html) is not installed")
    page = tmp_path / "memory.html"
    assert main(["memory", str(mapped), "--format", "html", "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('<svg class="whole"') == 1 and "system PTEs" in text


def test_a_log_tells_that_it_has_no_memory(tmp_path, capsys):
    main(["snapshot", "dumps/samples/pipo-19041.dmp.xz", "-o", str(tmp_path / "s.json")])
    assert main(["memory", str(tmp_path / "s.json")]) == 1
    words = " ".join(capsys.readouterr().out.split())
    assert "No verdict" in words and "no memory to look into" in words


class TestVerdict:
    def test_what_fills_the_machine_stands_before_the_tags(self, mapped, capsys):
        assert main([str(mapped), "--format", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["fills"] == "system PTE mappings"
        assert document["verdict"].startswith("The pools are not what fills this machine: about ")
        assert document["next_steps"][0]["command"] == "!sysptes 1"
        main(["schema", "report/1"])
        jsonschema.validate(document, json.loads(capsys.readouterr().out))
        main([str(mapped), "--width", "80"])
        text = capsys.readouterr().out
        assert "Outside the tags" in text and "system PTE mappings" in text
        assert all(len(line) <= 80 or str(mapped) in line for line in text.splitlines())

    def test_where_nothing_outside_is_larger_the_verdict_is_that_on_the_pools(self, plain, capsys):
        assert main([str(plain), "--format", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["fills"] is None and document["untagged"]
        assert "The pools are not" not in document["verdict"]


@pytest.mark.parametrize("build", [7601, 9600, 14393, 19041, 20348, 22000])
def test_sessions_and_their_pool_are_told(build, tmp_path, capsys):
    path = tmp_path / "sessions.dmp"
    forge(
        "zombies", build=build, leaked=3, healthy_share=32, memory=MemoryPlan(), page_frames=plan_frames(0x1000)
    ).save(path)
    main(["memory", str(path), "--format", "json"])
    commit = json.loads(capsys.readouterr().out)["commit"]
    assert {row["number"]: (row["committed_bytes"], row["paged_pool_bytes"]) for row in commit["sessions"]} == {
        0: (700 << 12, 300 << 12),
        1: (701 << 12, 300 << 12),
    }
    assert {line["name"]: line["bytes"] for line in commit["lines"]}["Session Commit"] == 1401 << 12


def test_who_points_at_the_mappings_is_told_as_possible(tmp_path, capsys):
    machine = forge("quiet", build=22000, memory=MemoryPlan(), page_frames=plan_frames(0x40000, PTEs=6000))
    path = tmp_path / "mapped.dmp"
    machine.save(path)
    with open_source(str(path)) as source:
        region = next(row for row in read_regions(source.kernel) if row.use is FrameUse.SYSTEM_PTES)
        image, section = next(
            (image, section)
            for image in source.kernel.images[4:]
            for section in image.sections
            if section.writable and image.read(section.rva, 8) is not None
        )
    for page in range(40):
        machine.space.map_page(region.start + 0x5000 + page * 0x1000, machine.space.frames.take())
    machine.write_virtual(image.module.base + section.rva, (region.start + 0x5010).to_bytes(8, "little"))
    machine.save(path)
    main(["memory", str(path), "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["mappers"] == [{"name": image.module.name, "is_tag": False, "ranges": 1, "most_bytes": 40 << 12}]
    assert "Who mapped most of them is not told by this dump" in document["verdict"]


def find_pages_without_entry(machine, count):
    """Numbers of frames whose records are those of pages in use, at an entry that is no page table's."""
    nonpaged, found, number = machine.addresses["region:nonpaged"], [], 0
    while len(found) < count:
        record = machine.read_virtual(0xFFFFFA8000000000 + number * 0x30, 0x30)
        if record[0x22] & 7 == 6 and nonpaged <= int.from_bytes(record[8:16], "little") < nonpaged + (1 << 27):
            found.append(number)
        number += 1
    return found


@pytest.mark.parametrize("is_true", [True, False])
def test_who_points_at_lists_of_pages_is_told_as_possible(is_true, tmp_path, capsys):
    """The list of MmAllocatePagesForMdlEx as wdm.h has it. One that names mapped pages is none of them."""
    plan = plan_frames(0x40000, **{"no PTE": 6000})
    machine = forge("quiet", build=19041, memory=MemoryPlan(mdl_pages=100), page_frames=plan)
    path = tmp_path / "locked.dmp"
    machine.save(path)
    with open_source(str(path)) as source:
        image, section = next(
            (image, section)
            for image in source.kernel.images[4:]
            for section in image.sections
            if section.writable and image.read(section.rva, 8) is not None
        )
    pages = find_pages_without_entry(machine, 3000)
    if not is_true:
        pages = [number + 1 for number in pages]
    head = struct.pack("<QHHHHQQQII", 0, 0x30 + 3000 * 8, 2, 0, 0, 0, 0, 0, 3000 << 12, 0)
    address = 0xFFFFD00000000000
    for page in range(8):
        machine.space.map_page(address + page * 0x1000, machine.space.frames.take())
    machine.write_virtual(address, head + struct.pack("<3000Q", *pages))
    machine.write_virtual(image.module.base + section.rva, address.to_bytes(8, "little"))
    machine.save(path)
    main(["memory", str(path), "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    found = [{"name": image.module.name, "is_tag": False, "ranges": 1, "most_bytes": 3000 << 12}]
    assert document["mappers"] == (found if is_true else [])
    assert ("Who took most of them is not told" in document["verdict"]) is is_true
    assert ("leads to a list of such pages (MDL)" in document["verdict"]) is not is_true
    main(["memory", str(path), "--format", "html"])
    assert ("Who points at lists of pages: possible, no more" in capsys.readouterr().out) is is_true


def test_nothing_is_said_of_who_points_where_the_search_was_ended(tmp_path):
    machine = forge("quiet", build=19041, memory=MemoryPlan(mdl_pages=150_000), page_frames=plan_frames(0x40000))
    path = tmp_path / "ended.dmp"
    machine.save(path)
    verdicts = []
    for cause in (None, KeyboardInterrupt()):
        with open_source(str(path)) as source:
            work = Work(keeps_results=True)
            work.cause = cause
            report = report_memory(source, work, sampled=True)
            verdicts.append(report.verdict)
            assert report.mappers == (None if cause else ())
    assert "no data of a driver in it leads to a list of such pages (MDL)" in verdicts[0]
    assert "Which driver holds them is not told here." in verdicts[1] and "no data" not in verdicts[1]


@pytest.mark.parametrize("command", ["analyze", "memory"])
def test_a_path_is_quoted_in_the_next_steps(command, mapped, tmp_path, capsys):
    """Files come from customers: what is pasted from a report runs nothing of their names."""
    path = tmp_path / "$(touch x) dump.dmp"
    path.symlink_to(mapped)
    main([command, str(path), "--format", "json"])
    commands = [step["command"] for step in json.loads(capsys.readouterr().out)["next_steps"] if step["command"]]
    naming = [line for line in commands if "touch" in line]
    assert naming or command == "memory"
    assert all(f"'{path}'" in line for line in naming)


def test_pages_that_a_live_dump_leaves_out_are_told_from_damage(tmp_path, capsys):
    machine = forge("quiet", build=19041, memory=MemoryPlan(), page_frames=plan_frames(0x8000))
    machine.omit(0xFFFFFA8000000000, 0x30000)
    path = tmp_path / "live.dmp"
    machine.save(path, live=True)
    main(["memory", str(path), "--whole", "--format", "json"])
    left_out = " ".join(json.loads(capsys.readouterr().out)["warnings"])
    assert "every page that the file announces is in it" in left_out
    assert "leave out pages of processes, free pages by design" in left_out
    assert "taken while the system ran" in left_out
    assert "damage" not in left_out.replace("not damaged", "")


@pytest.mark.parametrize(
    ("left_out", "present", "expected", "words"),
    [
        ("", None, None, ""),
        ("free pages", None, None, "dumps of this kind leave out free pages by design"),
        ("", 7, 9, "2 of 9 pages that the file announces are not in it: damage"),
        ("free pages", 7, 9, "2 of 9 pages that the file announces are not in it: damage; beside that dumps of"),
    ],
)
def test_damage_is_what_a_file_announces_and_lacks(left_out, present, expected, words):
    facts = TargetFacts("a dump", Machine.X64, pages_present=present, pages_expected=expected, left_out=left_out)
    assert facts.why_missing.startswith(words) and bool(facts.why_missing) == bool(words)
