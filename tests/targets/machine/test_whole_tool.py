"""The tool over images: the verdict of the dump, its other commands, and what images alone can tell."""

from __future__ import annotations

import json
import struct

import pytest

from dumps.forge.vmfiles import plain, vmware
from pykdext.cli.main import main
from tests.targets.machine.conftest import make_machine

FORMS = ("raw", "vmem", "elf", "kdump", "vmrs")


def run(capsys, *words, status=0):
    assert main([str(word) for word in words]) == status
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def verdict_of_dump(dump_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("verdict") / "dump.json"
    main([str(dump_path), "--format", "json", "-o", str(path)])
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", FORMS)
def test_the_verdict_is_that_of_the_dump(capsys, container, verdict_of_dump, name):
    found = json.loads(run(capsys, container(name), "--format", "json"))
    assert found["verdict"] == verdict_of_dump["verdict"]
    assert found["pools"] == verdict_of_dump["pools"]
    for suspect, expected in zip(found["suspects"], verdict_of_dump["suspects"]):
        owners = [(owner["module"], owner["confidence"]) for owner in suspect["owners"]]
        assert owners == [(owner["module"], owner["confidence"]) for owner in expected["owners"]]
        calls = {(item["kind"], item["rva"]) for owner in suspect["owners"] for item in owner["evidence"]}
        assert {(item["kind"], item["rva"]) for owner in expected["owners"] for item in owner["evidence"]} <= calls
        assert {key: suspect[key] for key in ("tag", "pool", "bytes", "outstanding", "role") if key in suspect} == {
            key: expected[key] for key in ("tag", "pool", "bytes", "outstanding", "role") if key in expected
        }
    subject, known = found["subject"], verdict_of_dump["subject"]
    assert subject["boot_id"] == verdict_of_dump["subject"]["boot_id"] == 42
    assert subject["bugcheck"] is None
    assert subject["time_from"] == "last clock tick"
    for word in ("os", "taken_at", "uptime_seconds", "memory", "host"):
        assert subject[word] == known[word]


@pytest.mark.parametrize("name", ["raw", "kdump", "vmrs"])
def test_the_tag_table_is_that_of_the_dump(capsys, container, dump_path, name):
    found = json.loads(run(capsys, "used", container(name), "--format", "json"))
    expected = json.loads(run(capsys, "used", dump_path, "--format", "json"))
    assert found["tags"] == expected["tags"]
    assert found["coverage"] == expected["coverage"]


def test_no_crash_is_claimed(capsys, container):
    text = run(capsys, container("raw"))
    assert "Last clock tick at 2024-11-12 03:41:27 UTC, up 11 d 0 h" in text
    assert "No bugcheck: memory of a running or hung system" in text
    assert "Kernel found by the code that starts processors" in text
    assert "crash" not in text.lower()
    assert "!poolused" not in text
    assert "lmvm" not in text
    assert "poolleak blocks Pipo" in text
    assert "memory.dmp, which WinDbg opens" in " ".join(text.split())
    assert all(
        len(line) <= 80 for line in run(capsys, container("raw"), "--width", "80").splitlines() if "/" not in line
    )


def test_commands_of_windbg_stand_where_windbg_opens_the_file(capsys, container):
    text = run(capsys, container("vmrs"))
    assert "!poolused 2 Pipo" in text
    assert "!poolfind Pipo 0" in text


def test_find_blocks_and_pages_work(capsys, container, tmp_path):
    assert "pippo.sys" in run(capsys, "find", "Pipo", container("elf"))
    assert "Pipo" in run(capsys, "blocks", "Pipo", container("vmem"))
    page = tmp_path / "page.html"
    run(capsys, container("vmem"), "--format", "html", "-o", page)
    text = page.read_text()
    assert "running or hung system" in text
    assert "Last clock tick" in text


def test_a_named_state_file_is_used(capsys, machine, tmp_path):
    vmware.save_vmem(machine, tmp_path / "server.vmem")
    for name in ("a.vmsn", "b.vmsn"):
        vmware.save_state(machine, tmp_path / name)
    assert "b.vmsn" in run(capsys, tmp_path / "server.vmem", "--meta", tmp_path / "b.vmsn")
    main([str(tmp_path / "server.vmem")])
    assert "--meta FILE" in capsys.readouterr().err


def test_two_images_of_one_boot_show_growth_and_of_two_boots_do_not(capsys, tmp_path):
    paths = []
    for number in range(2):
        machine = make_machine()
        shared = machine.kernel.architecture.shared_user_data
        later = 10_000_000 * 3600 * number
        for at in (0x8, 0x14):
            value = struct.unpack("<Q", machine.read_virtual(shared + at, 8))[0] + later
            machine.write_virtual(shared + at, struct.pack("<QI", value, value >> 32))
        paths.append(tmp_path / f"{number}.raw")
        plain.save_raw(machine, paths[-1])
    text = run(capsys, "diff", *paths)
    assert "restart" not in text
    machine.write_virtual(shared + 0x2C4, struct.pack("<I", 43))
    plain.save_raw(machine, paths[1])
    text = " ".join(run(capsys, "diff", *paths).split())
    assert "number 42, then number 43" in text


def test_a_dump_and_an_image_can_be_compared(capsys, container, dump_path):
    text = " ".join(run(capsys, "diff", dump_path, container("elf")).split())
    assert "last clock tick" in text
    assert "restart" not in text


def test_a_dump_of_another_boot_than_the_image_is_told_apart(capsys, container, tmp_path):
    machine = make_machine()
    machine.write_virtual(machine.kernel.architecture.shared_user_data + 0x2C4, struct.pack("<I", 41))
    path = tmp_path / "older.dmp"
    machine.save(path, kind=5)
    assert json.loads(run(capsys, path, "--format", "json"))["subject"]["boot_id"] == 41
    assert "number 41, then number 42" in " ".join(run(capsys, "diff", path, container("raw")).split())


def test_a_kept_state_remembers_that_it_was_an_image(capsys, container, tmp_path):
    path = tmp_path / "state.json"
    run(capsys, "snapshot", container("kdump"), "-o", path)
    text = run(capsys, path)
    assert "running or hung system" in text
    assert "!poolused" not in text


def test_a_batch_takes_images_and_no_state_file_for_a_second_one(capsys, machine, tmp_path):
    folder = tmp_path / "evidence"
    folder.mkdir()
    vmware.save_vmem(machine, folder / "server.vmem")
    vmware.save_state(machine, folder / "server.vmsn")
    machine.save(folder / "other.dmp", kind=6)
    (folder / "program").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\2\0" + bytes(0x100))
    found = json.loads(run(capsys, "batch", folder, "--jobs", "1", "--format", "json"))
    assert sorted(row["path"].rpartition("/")[2] for row in found["dumps"]) == ["other.dmp", "server.vmem"]
    assert all(row["status"] == "done" for row in found["dumps"])
