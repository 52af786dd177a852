"""Files that are written whole or not at all, wherever their names lead."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from pykdext.wholefile import open_partial, write_text, write_whole

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs links, FIFOs and modes of POSIX")


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(str(link), "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "target.txt"]


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write_whole(str(tmp_path / "pipe"), b"report")
    reader.join(60)
    assert read == [b"report"]
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_stays_one():
    write_text("/dev/null", "report")
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_permissions_stay(tmp_path, mode):
    path = tmp_path / "report.txt"
    path.touch(mode)
    path.chmod(mode)
    write_text(str(path), "new")
    assert (path.stat().st_mode & 0o777, path.read_text()) == (mode, "new")


@pytest.mark.parametrize("name", ["missing/report.txt", "folder"])
def test_errors_name_what_was_asked_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one depends on the system
        write_text(str(tmp_path / name), "new")
    assert caught.value.filename == str(tmp_path / name) and caught.value.strerror
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == []


def test_a_planted_link_leads_nowhere(tmp_path, monkeypatch):
    """Even one of the very name that the new file is going to have, which nobody can guess."""
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(os, "urandom", bytes)
    (shared / f"poolleak-{bytes(12).hex()}.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(str(shared / "report.txt"), "new")
    assert victim.read_text() == "mine" and not (shared / "report.txt").exists()


def test_no_two_writers_share_a_file(tmp_path):
    names = set()
    for _ in range(100):
        file, partial = open_partial(str(tmp_path / "report.txt"))
        file.close()
        names.add(partial)
    assert len(names) == 100
    assert {os.path.dirname(name) for name in names} == {str(tmp_path)}
