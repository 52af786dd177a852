"""What is kept of a driver file says of a tag only that the file has nothing of it, and only where that is so."""

from __future__ import annotations

import shutil

import pytest

from dumps.drivers import build
from pykdext.attribution.filesummary import FileSummary, pack_summary, parse_summary
from pykdext.model import ImageVersion, Machine, Module, PoolTag
from pykdext.pipeline import driverfiles
from pykdext.pipeline.driverfiles import search_files
from tests.helpers import idioms

ABSENT = PoolTag(b"Zq77")
SEARCHED = ("idioms-O2.sys", "shelves-O2.sys", "byways-O2.sys", "innocent-Os.sys", "ctxreg.sys")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("drivers")
    for architecture in idioms.ARCHITECTURES:
        for name in SEARCHED:
            shutil.copy(build.IMAGES / architecture / name, made / f"{architecture}-{name}")
    return made


@pytest.fixture
def warm(folder, monkeypatch, tmp_path):
    """A cache in which there is what a search for a tag of no driver keeps."""
    monkeypatch.setenv("POOLLEAK_CACHE", str(tmp_path / "cache"))
    search_files([str(folder)], [ABSENT])
    return tmp_path / "cache"


def test_summaries_hide_nothing(folder, monkeypatch, warm):
    tags = [PoolTag.from_text(word) for word in (*idioms.all_tags(), "Ctxr", "Zq78", "ab", "RLDH", "x64-", "arm6")]
    known = search_files([str(folder)], tags)
    monkeypatch.setenv("POOLLEAK_CACHE", "off")
    assert known == search_files([str(folder)], tags)
    assert sum(map(bool, known.evidence.values())) > len(tags) / 2


def open_nothing(path):
    raise AssertionError(f"{path} was opened")


def test_a_file_that_has_nothing_of_a_tag_is_not_taken_apart_again(folder, monkeypatch, warm):
    with monkeypatch.context() as patch:
        patch.setattr(driverfiles, "open_image_file", open_nothing)
        known = search_files([str(folder)], [ABSENT, PoolTag(b"Zq78")])
    monkeypatch.setenv("POOLLEAK_CACHE", "off")
    assert known == search_files([str(folder)], [ABSENT, PoolTag(b"Zq78")])


def test_a_changed_file_is_searched(folder, monkeypatch, warm, tmp_path):
    name = "x64-" + SEARCHED[0]
    content = bytearray((folder / name).read_bytes())
    content[0x4E:0x52] = b"Zq77"  # in the stub for DOS, where nobody looks
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(driverfiles, "open_image_file", open_nothing)
    with pytest.raises(AssertionError, match="was opened"):
        search_files([str(tmp_path / name)], [ABSENT])


def test_what_is_no_summary_is_none(folder):
    summary = FileSummary(
        Machine.ARM64,
        Module("pippo.sys", 0x140000000, 0x5000, "", 7, None),
        ImageVersion(company="Pippo"),
        90,
        100,
        ("pippo.sys: odd",),
        frozenset((b"Pipo", b"Pgla")),
        (),
    )
    packed = pack_summary(summary)
    assert parse_summary(packed) == summary
    for length in range(len(packed)):
        assert parse_summary(packed[:length]) is None
    assert parse_summary(packed + b"x") is None
    assert parse_summary(packed.replace(b"arm64", b"vax11")) is None
