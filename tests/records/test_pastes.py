"""More of what people paste, written out here: each with what must be read of it, or said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pykdext.cli.main import main
from pykdext.errors import RecordFormatError
from pykdext.model import PoolKind
from pykdext.records.logs import load_log

NP, P = PoolKind.NONPAGED, PoolKind.PAGED

WPA_COMMA = """Line #;Type;Paged;Pool Tag;Count;Size (MB);Impacting Size (MB)
1;AIFO;Nonpaged;xyZk;1.234.567;512,345;511,998
2;AIFO;Paged;CM31;23.456;98,123;2,001
"""
WPA_COMMA_ALONE = """Paged;Pool Tag;Count;Size (MB)
Nonpaged;xyZk;567;512,345
Paged;CM31;456;98,123
"""
OLD_FIND = """1: kd> !poolfind Abcd 1
Scanning large pool allocation table for Tag: Abcd (827d1000 : 827e9000)
826fa130 size:   c0 previous size:   40  (Allocated) Abcd
826fa1f0 size:   c0 previous size:   c0  (Free)      Abcd
"""
TWO_KINDS_OF_USED = """Tag\tType\tAllocs\tFrees\tUsed\tUsed (KB)\tDriver
xyZk\tNonpaged\t3211234\t12\t3211222\t1079102\tacme.sys
"""
DEALLOCATIONS = """{"Tags":[{"Tag":"xyZk","NonPagedUsedBytes":"1105000000","NonPagedAllocations":3211234,
"NonPagedDeallocations":12,"PagedUsedBytes":0}]}"""
VERIFIER = """0: kd> !verifier 3 acme.sys
  MODULE: 0xffffb30a2d5ef010 acme.sys (Loaded)
    Pool Allocation Statistics: ( NonPagedPool / PagedPool )
      Current Pool Allocations: ( 0x000182b3 / 0x00000000 )
      Current Pool Bytes:       ( 0x1a2b3c00 / 0x00000000 )
    PoolAddress  SizeInBytes    Tag       CallersAddress
    0xffffb30a30a1a000     0x00001000     AcmX      0xfffff8021aa01234
    0xffffb30a30a1b000     0x00000800     AcmX      0xfffff8021aa01234
"""


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (WPA_COMMA, [("xyZk", NP, 1234567, round(512.345 * 2**20)), ("CM31", P, 23456, round(98.123 * 2**20))]),
        (WPA_COMMA_ALONE, [("xyZk", NP, 567, round(512.345 * 2**20)), ("CM31", P, 456, round(98.123 * 2**20))]),
        (WPA_COMMA_ALONE.replace(";", "\t"), [("xyZk", NP, 567, 512345 << 20)]),
        (OLD_FIND, [("Abcd", P, 1, 0xC0)]),
        (OLD_FIND.replace("Abcd 1", "Abcd -nonpaged"), [("Abcd", NP, 1, 0xC0)]),
        (VERIFIER, [("AcmX", NP, 2, 0x1800)]),
        (TWO_KINDS_OF_USED, [("xyZk", NP, 3211222, 1079102 << 10)]),
        (DEALLOCATIONS, [("xyZk", NP, 3211222, 1105000000)]),
    ],
    ids=["wpa", "wpa-few", "tabs", "poolfind-1", "poolfind-nonpaged", "verifier", "used", "deallocations"],
)
def test_rows_are_read_with_their_pools(text, rows, tmp_path):
    path = tmp_path / "paste.txt"
    path.write_text(text)
    (state,) = load_log(str(path))
    found = {
        (row.tag.text, pool): (usage.outstanding, usage.bytes)
        for row in state.tags
        for pool in PoolKind
        if (usage := row.usage(pool)).bytes
    }
    assert {key: found.get(key) for key in [(tag, pool) for tag, pool, *_ in rows]} == {
        (tag, pool): (blocks, held) for tag, pool, blocks, held in rows
    }


def test_counters_by_number_are_those_of_memory(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text(
        '"(PDH-CSV 4.0) (UTC)(0)","\\\\SRV\\4\\58","\\\\SRV\\4\\56","\\\\SRV\\4\\30","\\\\SRV\\238(0)\\58"\n'
        '"11/21/2026 00:00:00.000","2000000000","600000000","9000000000","7"\n'
    )
    (state,) = load_log(str(path))
    memory = state.memory
    assert (memory.nonpaged_bytes, memory.paged_bytes, memory.commit_limit_bytes) == (2 * 10**9, 6 * 10**8, 9 * 10**9)


VERIFIED_IN_PART = """  One.sys (load: 1)
  Current Pool Allocations: (00000002 / 00000000)
  Current Pool Bytes: (00000020 / 00000000)
  Address     Length      Tag   Caller    Address
  0x8223a000  0x00000010  TagA  0x9a3bf6ac  One!f
  0x8223a100  0x00000010  TagA  0x9a3bf6ac  One!f
  Two.sys (load: 1)
  Current Pool Allocations: (00000009 / 00000000)
  Address     Length      Tag   Caller    Address
  0x8223b000  0x00000010  TagB  0x9a3bf6ac  Two!f
"""


def load_paste(text, tmp_path):
    path = tmp_path / "verifier.txt"
    path.write_text(text)
    (state,) = load_log(str(path))
    return state


def test_the_verifier_counts_more_only_of_drivers_whose_blocks_are_missing(tmp_path):
    state = load_paste(VERIFIED_IN_PART, tmp_path)
    told = [warning for warning in state.warnings if warning.endswith("more than are listed")]
    assert told == ["Driver Verifier counts 9 blocks of Two.sys outstanding: more than are listed"]


def test_an_address_without_digits_is_no_block(tmp_path):
    state = load_paste(VERIFIED_IN_PART.replace("0x8223a000", "0x````````"), tmp_path)
    assert sorted(usage.tag.text for usage in state.tags) == ["TagA", "TagB"]
    assert sum((usage.nonpaged.bytes or 0) + (usage.paged.bytes or 0) for usage in state.tags) == 0x20


def say(text, capsys, tmp_path, *words):
    path = tmp_path / "paste.txt"
    path.write_text(text)
    main([str(path), "--width", "200", *words])
    return capsys.readouterr().out


def test_blocks_that_the_verifier_lists_name_their_driver_and_what_it_counts(capsys, tmp_path):
    text = say(VERIFIER, capsys, tmp_path)
    assert "acme.sys (possible) allocates AcmX" in text
    assert "Driver Verifier counts 98,995 blocks of acme.sys outstanding, 419 MB: more than are listed" in text


def test_a_number_that_cannot_be_is_doubted_where_it_is_said(capsys, tmp_path):
    log = (
        "  Memory: 8257152K Avail:  312420K  PageFlts: 25012   InRam Krnl: 8988K P:4210332K\n"
        "  Commit:12114392K Limit:16514304K Peak:13114392K            Pool N:113103320K P:400212K\n"
        "  Tag  Type     Allocs            Frees            Diff       Bytes       Per Alloc\n\n"
        "  xyZk Nonp    3211234 (   0)        12 (   0)  3211222  110500000000 (     0)  34410\n"
        "  CM31 Paged    330000 (   0)    290000 (   0)    40000   190000000 (     0)   4750\n"
    )
    first = " ".join(say(log, capsys, tmp_path).split("\n\n")[1].split())
    assert first.endswith("exceeds the 7.87 GB of physical memory: the number cannot be right.")


def test_a_difference_of_a_pool_that_is_not_named_names_none(capsys, tmp_path):
    for name, held in (("before", 100_000_000), ("after", 900_000_000)):
        (tmp_path / f"{name}.txt").write_text(f"Tag  Bytes\nxyZk {held}\nEtwB 80500000\nMmSt 30000000\n")
    main(["diff", str(tmp_path / "before.txt"), str(tmp_path / "after.txt"), "--width", "120"])
    text = capsys.readouterr().out
    assert "all tags: pool (which one is not said) +800,000,000 bytes" in text
    assert "nonpaged +" not in text and "paged not known" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["analyze", "2"],
        ["diff", "1", "2"],
        ["trend", "1", "2"],
        ["used", "2"],
        ["used", "2", "--view", "poolused"],
        ["find", "xyZk", "2"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", ["text", "html"])
@pytest.mark.parametrize("is_named", [False, True])
def test_no_answer_names_a_pool_that_the_source_does_not(words, form, is_named, capsys, tmp_path, monkeypatch):
    if form == "html" and words[0] in ("used", "find"):
        pytest.skip("has no page")
    monkeypatch.chdir(tmp_path)
    kind = ("Type", "Nonp") if is_named else ("", "")
    for name, held in (("1", 100_000_000), ("2", 900_000_000)):
        Path(name).write_text(
            f"Tag {kind[0]} Bytes\nxyZk {kind[1]} {held}\nEtwB {kind[1]} 80500000\nMmSt {kind[1]} 30000000\n"
        )
    main([*words, "--format", form])
    text = capsys.readouterr().out
    if form == "html":
        text = text[text.index("<main") :]
    said = " ".join(text.split()).replace("its numbers are counted as nonpaged", "")
    found = re.findall("nonp|paged", said, re.IGNORECASE)
    assert bool(found) is is_named, found
    assert "xyZk" in said
    assert words[0] == "find" or ("which one is not said" in said) is not is_named


@pytest.mark.parametrize(("flags", "is_of_session"), [("8", True), ("0xc", True), ("2", False), ("4 Gla5", False)])
def test_the_commands_flags_tell_the_session_pool(flags, is_of_session, tmp_path):
    path = tmp_path / "paste.txt"
    path.write_text(
        f"0: kd> !poolused {flags}\n\n               NonPaged                  Paged\n"
        " Tag     Allocs         Used     Allocs         Used\n\n"
        " Gla5      1000       200000       2000     90000000   UNKNOWN\n"
    )
    (state,) = load_log(str(path))
    assert any("session" in warning for warning in state.warnings) is is_of_session


def test_rows_whose_titles_are_missing_are_refused_in_these_words(tmp_path):
    path = tmp_path / "paste.txt"
    path.write_text("Top tags (NonPaged):\nxyZk 3211222 1105000000\nEtwB 900 80500000\n")
    with pytest.raises(RecordFormatError, match="but not the titles that say what they count"):
        load_log(str(path))


def test_a_total_of_counts_that_no_row_has_is_not_known(capsys, tmp_path):
    path = tmp_path / "paste.txt"
    path.write_text("Tag Bytes\nxyZk 900000000\nEtwB 80500000\nMmSt 30000000\n")
    assert main(["used", str(path), "--view", "poolused"]) == 0
    total = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("TOTAL"))
    assert total.split() == ["TOTAL", "-", "1,010,500,000"]
