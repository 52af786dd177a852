"""Files that are written whole or not at all, wherever their names lead."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from pykdext.wholefile import write_text, write_whole

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
