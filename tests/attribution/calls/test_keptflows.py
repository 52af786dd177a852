"""Flows that are kept: the hosts of a batch have the same drivers, at other addresses, and each is followed once."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter

import pytest

from dumps.drivers import build
from dumps.forge import forge
from pykdext.attribution.calls import functions, keptflows
from pykdext.attribution.calls.keptflows import MAX_VARIANTS, KeptFlows
from pykdext.attribution.calls.lookups import read_named_places
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.flow.standard import StandardAddresses, StandardImage
from pykdext.attribution.places.cache import IndexCache
from pykdext.attribution.places.index import ImageIndex
from pykdext.cli.main import main
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import read_image
from pykdext.model import Confidence, Module, PoolTag
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import CODE, CONSTANTS, PAGE, make_image

pytest.importorskip("capstone")

TAGS = ("Pipo", "Pgla", "Look", "Glob", "Ctxr", "Hldr")
CODE_RVA = PAGE
BASES = (0xFFFFF800_10000000, 0xFFFFF805_2ABC0000)
NOTHING_SAVED = 0


@pytest.fixture
def followed(monkeypatch):
    """The entries of the functions that are followed from now on."""
    entries = []
    follow = functions.follow_function

    def note(image, bounds, *rest):
        entries.append((image.module.name, bounds.start_rva))
        return follow(image, bounds, *rest)

    monkeypatch.setattr(functions, "follow_function", note)
    return entries


def find(capsys, dump):
    assert main(["find", *TAGS, str(dump), "--format", "json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    return {tag["tag"]: tag["owners"] for tag in found["tags"]}


@pytest.mark.parametrize(("arch", "build_number"), [("x64", 19041), ("arm64", 22000), ("x86", 7601)])
def test_the_same_image_is_followed_on_one_host_only(arch, build_number, tmp_path, capsys, monkeypatch, followed):
    drivers = [build.IMAGES / arch / f"{name}.sys" for name in ("pagella", "holder")]
    hosts, bases = [], []
    for seed in (1, 2, 3):
        machine = forge("pipo", arch=arch, build=build_number, seed=seed, drivers=drivers)
        machine.save(tmp_path / f"{seed}.dmp")
        hosts.append(tmp_path / f"{seed}.dmp")
        bases.append(next(base for name, base, *_ in machine.truth.modules if name == "pippo.sys"))
    assert len(set(bases)) == len(bases)
    alone = [find(capsys, host) for host in hosts]
    assert all(owners for owners in alone[0].values())
    counts = Counter(followed)
    assert len(counts) > len(TAGS) and set(counts.values()) == {len(hosts)}
    followed.clear()
    monkeypatch.setenv("POOLLEAK_CACHE", str(tmp_path / "cache"))
    assert [find(capsys, host) for host in hosts] == alone
    assert Counter(followed).keys() == counts.keys()
    again = {module for (module, _), count in Counter(followed).items() if count > 1}
    assert not again if arch != "x86" else "pippo.sys" in again  # code of x86 is full of its own addresses
    followed.clear()
    assert [find(capsys, host) for host in reversed(hosts)] == alone[::-1]
    assert followed == []


def made(base, tag=b"Pipo", slot=b"ExAllocatePoolWithTag"):
    """An image that allocates with a tag which it reads from a constant."""
    code = b"\x44\x8b\x05" + (0x2100 - 0x1007).to_bytes(4, "little")  # mov r8d, [rip+constant]
    code += b"\xff\x15" + (0x3000 - 0x100D).to_bytes(4, "little") + b"\xc3"  # call [rip+slot]; ret
    constants = bytearray(PAGE)
    constants[0x100:0x104] = tag
    table = bytearray(PAGE)
    table[0x40:0x54] = b"".join(number.to_bytes(4, "little") for number in (0x3080, 0, 0, 0x30C0, 0x3000))
    table[0x80:0x88] = (0x3100).to_bytes(8, "little")
    table[0xC0:0xCD] = b"ntoskrnl.exe\0"
    table[0x102 : 0x103 + len(slot)] = slot + b"\0"
    memory = make_image(
        (b".text", code.ljust(PAGE, b"\xcc"), CODE),
        (b".rdata", bytes(constants), CONSTANTS),
        (b".idata", bytes(table), CONSTANTS),
        directories=[(0, 0), (0x3040, 40), *[(0, 0)] * 10, (0x3000, 16)],
    )
    target = SegmentsTarget({base: memory}, modules=(Module("made.sys", base, len(memory)),))
    return read_image(target, target.modules()[0])


def ask(image, cache, tag=b"Pipo"):
    found = CodeAttributor(ImageIndex([image], [PoolTag(tag)]), cache).evidence(PoolTag(tag))
    return [(item.confidence.value, item.rva) for item in found if item.confidence is not Confidence.POSSIBLE]


def test_what_else_was_read_decides_whether_a_flow_counts(tmp_path, followed):
    cache = IndexCache(tmp_path / "cache")
    proven = [("proven", CODE_RVA + 7)]
    assert ask(made(BASES[0]), cache) == proven and len(followed) == 1
    assert ask(made(BASES[1]), cache) == proven and len(followed) == 1
    for _ in range(2):  # the constant is another one: the flow is, too, and both are kept
        assert ask(made(BASES[1], b"Altr"), cache, b"Altr") == proven and len(followed) == 2
        assert ask(made(BASES[1], b"Altr"), cache) == []
        assert ask(made(BASES[0]), cache) == proven
    other = made(BASES[0], slot=b"ExAcquireFastMutexUnsafe")  # the same code, with another function in the table
    assert [grade for grade, _ in ask(other, cache)] != ["proven"] and len(followed) == 3
    for number in range(2 * MAX_VARIANTS):
        assert ask(made(BASES[0], b"Tg%02d" % number), cache, b"Tg%02d" % number) == proven


def open_kept(image, cache):
    return KeptFlows(cache, StandardImage(image, StandardAddresses([image.module])), read_named_places(image))


def test_what_is_damaged_is_followed_anew(tmp_path, followed, monkeypatch):
    cache = IndexCache(tmp_path / "cache")
    bounds = FunctionBounds(CODE_RVA, ((CODE_RVA, CODE_RVA + PAGE),), "flow")
    kept = open_kept(made(BASES[0]), cache)
    key = kept._identify(bounds)
    empty = kept._image.digest([])
    for content in (
        b"",
        b"{",
        b"[1]",
        b"[[1,2,3]]",
        b'[[[],"",""]]',
        json.dumps([[[], empty, "{}"]]).encode(),
        json.dumps([[[], empty, "[" * 100_000]]).encode(),
        json.dumps([[[["x", 1]], empty, "{}"]]).encode(),
    ):
        cache.save_entry(key, content)
        assert kept.load(bounds) is None
    assert ask(made(BASES[0]), cache) == [("proven", CODE_RVA + 7)] and len(followed) == 1


def test_no_flow_is_kept_of_what_reads_too_much(tmp_path, followed, monkeypatch):
    monkeypatch.setattr(keptflows, "MAX_PLACES", NOTHING_SAVED)
    cache = IndexCache(tmp_path / "cache")
    for number in (1, 2):
        assert ask(made(BASES[0]), cache) == [("proven", CODE_RVA + 7)] and len(followed) == number


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_a_folder_that_others_write_into_is_not_believed(tmp_path, followed):
    folder = tmp_path / "cache"
    for number, mode in enumerate((0o700, 0o755, 0o770, 0o777), 1):
        folder.mkdir(exist_ok=True)
        os.chmod(folder, mode)
        assert IndexCache(folder).is_private == (number <= 2)
        ask(made(BASES[0]), IndexCache(folder))
    assert len(followed) == 3  # by the first, and by the last two, which neither read nor keep
    (tmp_path / "file").write_bytes(b"")
    assert not IndexCache(tmp_path / "file" / "cache").is_private


def test_a_program_that_cannot_be_told_from_others_keeps_nothing(tmp_path, followed, monkeypatch):
    monkeypatch.setattr(keptflows, "_identify_program", lambda: "")
    for number in (1, 2):
        ask(made(BASES[0]), IndexCache(tmp_path / "cache"))
        assert len(followed) == number


def test_another_version_of_the_program_follows_anew(tmp_path, followed, monkeypatch):
    for number in (1, 2, 2):
        monkeypatch.setattr(keptflows, "_identify_program", lambda number=number: f"program {number}")
        ask(made(BASES[0]), IndexCache(tmp_path / "cache"))
    assert len(followed) == 2
