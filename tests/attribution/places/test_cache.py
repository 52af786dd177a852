"""Indexes on disk: the same answers with fewer reads, and nothing believed that is not of this image."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from pykdext.attribution.places import cache as indexcache
from pykdext.attribution.places.cache import IndexCache, find_cache_folder
from pykdext.attribution.places.index import ImageIndex, ImmediateAttributor
from pykdext.images.image import read_image
from pykdext.model import Machine, Module, PoolTag
from tests.helpers.indexcoverage import coverage_of
from tests.images.test_image import (
    BASE,
    CODE,
    CONSTANTS,
    DRIVERS,
    INIT,
    PAGE,
    VARIABLES,
    Counting,
    make_image,
    map_file,
    needs_drivers,
)

PIPO = PoolTag(b"Pipo")
CODE_PAGES = b"\x41\xb8Pipo".ljust(2 * PAGE, b"\x90")


HEADER = 0x40
TIMESTAMP, CHECKSUM = HEADER + 8, HEADER + 24 + 64


def change(memory, offset, value):
    return memory[:offset] + struct.pack("<I", value) + memory[offset + 4 :]


def memory_of(code=CODE_PAGES, variable=b"Pipo"):
    memory = make_image(
        (b".text", code, CODE),
        (b".rdata", b"Glob" + bytes(12), CONSTANTS),
        (b".data", variable, VARIABLES),
        (b"INIT", b"\xbaInit", INIT),
    )
    return change(memory, CHECKSUM, 0xC0DE)


def open_counting(memory, missing=(), name="made.sys"):
    pages = {BASE + rva: memory[rva : rva + PAGE] for rva in range(0, len(memory), PAGE) if rva not in missing}
    target = Counting(pages, modules=(Module(name, BASE, len(memory)),))
    return target, read_image(target, target.modules()[0])


def search(memory, cache, tag=PIPO, **options):
    """The evidence with the cache, and the RVAs of the pages that were read for it."""
    target, image = open_counting(memory, **options)
    index = ImageIndex([image], [tag], cache=cache)
    evidence = list(ImmediateAttributor(index).evidence(tag))
    return evidence, {address - BASE for address in target.reads}, index


@pytest.fixture
def cache(tmp_path):
    return IndexCache(tmp_path / "made" / "here")


def entries(cache):
    return sorted(cache._folder.glob("*"))


def test_second_search_reads_only_what_can_differ(cache):
    first, read, _ = search(memory_of(), cache)
    assert {PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE} <= read
    assert len(entries(cache)) == 1
    second, read, index = search(memory_of(), IndexCache(cache._folder))
    assert second == first
    assert [item.kind for item in first] == ["immediate", "data"]
    assert 2 * PAGE not in read
    assert 3 * PAGE not in read
    assert {4 * PAGE, 5 * PAGE} <= read, "variables and INIT are searched as they are"
    assert coverage_of(index).resident_fraction == 1.0
    changed, _, _ = search(memory_of(variable=b"Other\0\0\0"), cache)
    assert [item.kind for item in changed] == ["immediate"]


@pytest.mark.parametrize("tag", [b"Pipo", b"Glob", b"Init", b"opiP", b"bolG", b"Ab\x01\x02", b"none"])
@pytest.mark.parametrize("named", [True, False])
def test_answers_are_the_same(cache, tag, named):
    memory = memory_of(b"\x90\x3dbolG\x41\xb8Pipo\xbaAb\x01\x02".ljust(2 * PAGE, b"\x90"))
    answers = []
    for kept in (None, cache, cache):
        _, image = open_counting(memory)
        index = ImageIndex([image], [PoolTag(tag)] if named else [], cache=kept)
        answers.append(list(ImmediateAttributor(index).evidence(PoolTag(tag))))
    assert index.modules[0].is_cached
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] or tag == b"none"


def test_pages_that_are_missing_are_known(cache):
    search(memory_of(), cache)
    evidence, _, index = search(memory_of(), cache, missing=[PAGE])
    assert [item.rva for item in evidence] == [PAGE + 2, 4 * PAGE]
    assert coverage_of(index).resident_fraction == 1.0


def test_incomplete_images_are_not_kept(cache):
    search(memory_of(), cache, missing=[2 * PAGE])
    assert entries(cache) == []


def test_memory_contradicts_an_entry(cache):
    search(memory_of(), cache)
    other = memory_of(b"\x90\x90\x90\xbaPipo".ljust(2 * PAGE, b"\x90"))
    evidence, _, index = search(other, cache)
    assert [(item.rva, item.kind) for item in evidence] == [(PAGE + 4, "immediate"), (4 * PAGE, "data")]
    assert not index.modules[0].is_cached


@pytest.mark.parametrize(
    ("offset", "value"),
    [(TIMESTAMP, 0x5F000001), (CHECKSUM, 77)],
    ids=["timestamp", "checksum"],
)
def test_another_build_has_another_entry(cache, offset, value):
    search(memory_of(), cache)
    _, read, _ = search(change(memory_of(), offset, value), cache)
    assert 2 * PAGE in read
    assert len(entries(cache)) == 2


def test_images_without_a_build_are_not_kept(cache):
    search(change(memory_of(), TIMESTAMP, 0), cache)
    search(change(memory_of(), CHECKSUM, 0), cache)
    search(memory_of(), cache, missing=[0])
    assert entries(cache) == []


def damaged(data):
    head, body = data[:-40], data[-40:]
    yield b""
    yield data[:100]
    yield data[:-1]
    yield head + bytes(byte ^ 1 for byte in body)
    yield data + b"\0"
    yield b"another file"


def test_damaged_entries_are_ignored_and_replaced(cache):
    first, _, _ = search(memory_of(), cache)
    (path,) = entries(cache)
    whole = path.read_bytes()
    for data in damaged(whole):
        path.write_bytes(data)
        evidence, read, _ = search(memory_of(), cache)
        assert evidence == first
        assert 2 * PAGE in read
        assert path.read_bytes() == whole


def test_hostile_entries_are_ignored(cache):
    import hashlib

    first, _, _ = search(memory_of(), cache)
    (path,) = entries(cache)
    whole = path.read_bytes()
    magic, body = whole[: whole.index(b"\n") + 1], whole[whole.index(b"\n") + 33 :]
    identity = zlib.decompress(body).partition(b"\n")[0]
    for records in (
        struct.pack("<4sIH", b"Pipo", 0xFFFFFFF0, 1),
        struct.pack("<4sIH", b"Pipo", PAGE, 0xFFFF),
        struct.pack("<4sIH", b"Pipo", 4 * PAGE, 0),  # not in a constant section
        b"\0" * 11,
        b"\0" * (indexcache.MAX_ENTRY_BYTES + 10),
    ):
        packed = zlib.compress(identity + b"\n" + records)
        path.write_bytes(magic + hashlib.sha256(packed).digest() + packed)
        evidence, read, _ = search(memory_of(), cache)
        assert evidence == first
        assert 2 * PAGE in read


def test_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    first, _, _ = search(memory_of(), None)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert search(memory_of(), IndexCache(folder))[0] == first


def test_oldest_entries_make_room(tmp_path, monkeypatch):
    cache = IndexCache(tmp_path)
    for number in range(6):
        if number == 5:
            monkeypatch.setattr(indexcache, "MAX_FOLDER_BYTES", 3 * entries(cache)[0].stat().st_size + 20)
            search(memory_of(), cache, name="driver0.sys")  # used again
        search(memory_of(), cache, name=f"driver{number}.sys")
        for age, path in enumerate(sorted(entries(cache), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, ns=(10**9 * age, 10**9 * age))
    assert len(entries(cache)) == 3
    assert 2 * PAGE not in search(memory_of(), cache, name="driver0.sys")[1]
    assert 2 * PAGE not in search(memory_of(), cache, name="driver5.sys")[1]
    assert 2 * PAGE in search(memory_of(), cache, name="driver1.sys")[1]


HOME = Path("/home/someone")


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({}, "linux", HOME / ".cache" / "poolleak"),
        ({"XDG_CACHE_HOME": "/cache"}, "linux", Path("/cache/poolleak")),
        ({"LOCALAPPDATA": "/local"}, "win32", Path("/local/poolleak")),
        ({"LOCALAPPDATA": "/local"}, "linux", HOME / ".cache" / "poolleak"),
        ({"POOLLEAK_CACHE": "/mine", "XDG_CACHE_HOME": "/cache"}, "linux", Path("/mine")),
        ({"POOLLEAK_CACHE": "Off"}, "win32", None),
    ],
)
def test_cache_folder(environment, platform, folder):
    assert find_cache_folder(environment, platform, HOME) == folder


@needs_drivers
@pytest.mark.parametrize("machine", Machine)
def test_sample_drivers_from_the_cache(cache, machine):
    for path in sorted((DRIVERS / machine.value).glob("*.sys")):
        _, memory = map_file(path)
        found = []
        for _ in range(2):
            target = Counting({BASE: memory}, machine=machine, modules=(Module(path.name, BASE, len(memory)),))
            index = ImageIndex([read_image(target, target.modules()[0])], cache=cache)
            tags = found[0] if found else {PoolTag(raw): None for raw in index.modules[0]._places}
            found.append({tag: set(index.modules[0].find_places(tag).kept) for tag in tags})
        assert index.modules[0].is_cached
        assert found[0] == found[1]
        assert all(found[0].values())
