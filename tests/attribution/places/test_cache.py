"""Indexes on disk: the same answers with fewer reads, and nothing believed that is not of this image."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.fixture(autouse=True)
def keep_small_pieces(monkeypatch):
    monkeypatch.setattr(indexcache, "MIN_PIECE_BYTES", 1)


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


def test_a_second_search_takes_what_the_same_bytes_gave(cache):
    first, _, _ = search(memory_of(), cache)
    assert len(entries(cache)) == 2, "code and constants"
    second, _, index = search(memory_of(), IndexCache(cache._folder))
    assert second == first
    assert [item.kind for item in first] == ["immediate", "data"]
    assert index.modules[0].is_cached
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


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_answer_depends_on_what_was_searched_before(data, tmp_path_factory):
    """Machines with holes, zero pages and changed pages: cold, warm, and warmed by another machine's dump."""
    pieces = st.sampled_from([CODE_PAGES[:PAGE], b"\xbaPipo\x90".ljust(PAGE, b"\x90"), bytes(PAGE), b"\x90" * PAGE])
    states = st.tuples(
        st.lists(pieces, min_size=3, max_size=3), st.sets(st.sampled_from([0, 1, 2, 3, 4]).map(lambda n: n * PAGE))
    )
    here, others = data.draw(states), data.draw(st.lists(states, max_size=3))
    cold = state_of(here, None)
    cache = IndexCache(tmp_path_factory.mktemp("kept"))
    for other in others:
        state_of(other, cache)
    assert state_of(here, cache) == cold
    assert state_of(here, cache) == cold


def state_of(state, cache):
    """All that an answer says of the images in one dump."""
    code, missing = state
    memory = memory_of(b"".join(code))
    evidence, _, index = search(memory, cache, missing=missing)
    return evidence, coverage_of(index), index.warnings


def test_code_that_reads_as_zeros_hides_nothing_elsewhere(cache):
    """A page of code that could not be read was written as zeros: it is not there, and teaches nothing."""
    torn, _, index = search(memory_of(bytes(PAGE) + CODE_PAGES[PAGE:]), cache)
    assert [item.kind for item in torn] == ["data"]
    assert coverage_of(index).resident_fraction < 1
    whole, _, index = search(memory_of(), cache)
    assert [item.kind for item in whole] == ["immediate", "data"]
    assert coverage_of(index).resident_fraction == 1


def test_coverage_is_of_this_memory_alone(cache):
    search(memory_of(), cache)
    evidence, _, index = search(memory_of(), cache, missing=[PAGE])
    assert [item.kind for item in evidence] == ["data"]
    assert coverage_of(index).resident_fraction < 1


def test_other_bytes_have_another_entry(cache):
    search(memory_of(), cache)
    other = memory_of(b"\x90\x90\x90\xbaPipo".ljust(2 * PAGE, b"\x90"))
    evidence, _, _ = search(other, cache)
    assert [(item.rva, item.kind) for item in evidence] == [(PAGE + 4, "immediate"), (4 * PAGE, "data")]
    assert len(entries(cache)) == 3


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
    for path in entries(cache):
        whole = path.read_bytes()
        for data in damaged(whole):
            path.write_bytes(data)
            evidence, _, _ = search(memory_of(), cache)
            assert evidence == first
            assert path.read_bytes() == whole


def test_hostile_entries_are_ignored(cache):
    first, _, _ = search(memory_of(), cache)
    for path in entries(cache):
        whole = path.read_bytes()
        magic, body = whole[: whole.index(b"\n") + 1], whole[whole.index(b"\n") + 33 :]
        key = zlib.decompress(body)[:32]
        for records in (
            struct.pack("<4sIH", b"Pipo", 0xFFFFFFF0, 1),
            struct.pack("<4sIH", b"Pipo", PAGE, 0xFFFF),
            struct.pack("<4sIH", b"Pipo", 4 * PAGE, 0),  # of another section
            b"\0" * 11,
            b"\0" * (indexcache.MAX_ENTRY_BYTES + 10),
        ):
            packed = zlib.compress(key + records)
            path.write_bytes(magic + hashlib.sha256(packed).digest() + packed)
            evidence, _, _ = search(memory_of(), cache)
            assert evidence == first


def test_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    first, _, _ = search(memory_of(), None)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert search(memory_of(), IndexCache(folder))[0] == first


def test_a_folder_of_many_small_entries_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(indexcache, "MAX_FOLDER_BYTES", 5 * indexcache.COUNTED_BYTES)
    cache = IndexCache(tmp_path)
    for number in range(12):
        cache.save_entry(number.to_bytes(32, "little"), b"small")
        for age, path in enumerate(sorted(entries(cache), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, ns=(10**9 * age, 10**9 * age))
    kept = [number for number in range(12) if cache.load_entry(number.to_bytes(32, "little"))]
    assert kept == [7, 8, 9, 10, 11]
    assert len(entries(cache)) == 5


def test_oldest_entries_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(indexcache, "COUNTED_BYTES", 1)
    cache = IndexCache(tmp_path)
    codes = [bytes([0x90, number]).ljust(PAGE, b"\x90") for number in range(1, 6)]
    constants = PAGE  # the constants of all are the same: one entry, which is always in use

    for code in codes:
        search(memory_of(code), cache)
        for age, path in enumerate(sorted(entries(cache), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, ns=(10**9 * age, 10**9 * age))
    assert len(entries(cache)) == len(codes) + constants // PAGE
    monkeypatch.setattr(indexcache, "MAX_FOLDER_BYTES", 3 * max(path.stat().st_size for path in entries(cache)) + 20)
    search(memory_of(codes[0]), IndexCache(tmp_path))  # used again
    search(memory_of(b"\x91" * PAGE), IndexCache(tmp_path))
    assert len(entries(cache)) == 3
    assert search(memory_of(codes[0]), IndexCache(tmp_path))[2].modules[0].is_cached


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
