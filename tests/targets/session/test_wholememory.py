"""The file of the dump that the debugger has open: taken only where it is that very dump."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dumps.forge import forge
from pykdext.errors import TargetError
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.session.session import open_session
from pykdext.targets.session.wholememory import open_whole_memory
from tests.helpers.fakepykd import FakePykd
from tests.helpers.fleetdumps import set_time
from tests.helpers.windbgscreens import type_command

TAKEN_AT = forge("pipo").truth.taken_at


@pytest.fixture
def machine():
    return forge("pipo")


def is_searched(monkeypatch, machine, path, system="bitmap"):
    """Whether the file is taken for the session's; it is closed in any case."""
    with monkeypatch.context() as patch:
        FakePykd.of_machine(machine, system=system, dump_path=path).install(patch)
        session = open_session()
        with open_whole_memory(session) as memory:
            if memory is None:
                return False
            assert memory is not session
            assert memory.read_virtual(session.modules()[0].base, 2) == b"MZ"
        with pytest.raises(TargetError, match="Bad file descriptor"):
            memory.read_virtual(session.modules()[1].base, 2)
    return True


@pytest.mark.parametrize("kind", [1, 2, 5, 6])
def test_the_file_of_the_session_is_searched(machine, tmp_path, monkeypatch, kind):
    machine.save(tmp_path / "MEMORY.DMP", kind=kind)
    assert is_searched(monkeypatch, machine, tmp_path / "MEMORY.DMP")


def test_a_dump_is_its_own_whole_memory(machine, tmp_path):
    machine.save(tmp_path / "MEMORY.DMP")
    with open_crashdump(str(tmp_path / "MEMORY.DMP")) as target:
        with open_whole_memory(target) as memory:
            assert memory is target
        assert target.read_virtual(target.modules()[0].base, 2) == b"MZ"


@pytest.mark.parametrize("seconds", [1, 3600])
def test_a_later_dump_of_the_same_boot_is_another(machine, tmp_path, monkeypatch, seconds):
    path = tmp_path / "MEMORY.DMP"
    machine.save(path)
    set_time(path, TAKEN_AT + timedelta(seconds=seconds))
    assert is_searched(monkeypatch, machine, path) == (seconds < 2)


def other_kernel(path):
    forge("pipo", build=20348).save(path)


def other_architecture(path):
    forge("pipo", arch="x86", build=7601).save(path)


def triage(path):
    forge("pipo").save(path, kind=4)


def cut(path):
    path.write_bytes(b"PAGEDU64" + bytes(100))


def folder(path):
    path.mkdir()


def nothing(path):
    """The file is on another machine."""


@pytest.mark.parametrize("make", [other_kernel, other_architecture, triage, cut, folder, nothing])
def test_what_is_not_that_dump_is_left_alone(machine, tmp_path, monkeypatch, make):
    make(tmp_path / "MEMORY.DMP")
    assert not is_searched(monkeypatch, machine, tmp_path / "MEMORY.DMP")


@pytest.mark.parametrize("system", ["local", "remote"])
def test_a_live_machine_has_no_file(machine, tmp_path, monkeypatch, system):
    machine.save(tmp_path / "MEMORY.DMP")
    assert not is_searched(monkeypatch, machine, tmp_path / "MEMORY.DMP", system)


def test_without_the_file_the_command_that_finds_small_blocks_is_named(machine):
    ended = type_command("poolleak blocks Pipo", FakePykd.of_machine(machine))
    assert "in the debugger type !poolfind" in " ".join(ended.text.split())
