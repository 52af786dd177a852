"""Tag lists: the real pooltag.txt of two ages by plain counting, the matching rules by law, the built-in table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution.taglists import (
    MAX_LIST_BYTES,
    PoolTagList,
    TagListAttributor,
    find_pooltags,
    load_knowntags,
    load_pooltags,
    parse_pooltags,
)
from pykdext.errors import RecordFormatError
from pykdext.model import Confidence, EvidenceKind, PoolTag, TagDescription

LIST = """\
rem
REM   Pooltag.txt
// a comment - with - dashes
remark - not - a tag line either

Irp  - <unknown>    - Io, IRP packets
Fsb -  netio.sys    - Fixed-Size Block pool
Io - nt!io - short tag, no padding
AfdB - afd.sys      -     Afd data buffer
    of the second kind
Afd? - afd.sys      - AFD objects
Afd* - afd.sys - anything of AFD
A??? - x.sys - A and three
Sm?1 - a.sys - ends in 1
CMAl - nt!cm        -internal registry - memory allocator
Tun4  - <unknown>   - Tunnel cache
       <unknown>
ATmp - AppTag mount point
Dupl - one.sys - first
Dupl - two.sys - second
QUIC Allocation tags are Qc00 through QcFF
a-b  - c.sys - dash in the tag
\x1a"""


@pytest.fixture(params=["\n", "\r\n"], ids=["LF", "CRLF"])
def tags(request):
    return PoolTagList(parse_pooltags(LIST.replace("\n", request.param), "pooltag.txt"))


def found(tags, text):
    return [(entry.pattern, entry.module, entry.text) for entry in tags.find_descriptions(PoolTag.from_text(text))]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("Irp", [("Irp ", "", "Io, IRP packets")]),
        ("Fsb ", [("Fsb ", "netio.sys", "Fixed-Size Block pool")]),
        ("Io", [("Io  ", "nt!io", "short tag, no padding")]),
        ("CMAl", [("CMAl", "nt!cm", "internal registry - memory allocator")]),
        ("Tun4", [("Tun4", "", "Tunnel cache")]),
        ("ATmp", [("ATmp", "", "AppTag mount point"), ("A???", "x.sys", "A and three")]),
        ("Dupl", [("Dupl", "one.sys", "first"), ("Dupl", "two.sys", "second")]),
        ("a-b", [("a-b ", "c.sys", "dash in the tag")]),
        ("Smx1", [("Sm?1", "a.sys", "ends in 1")]),
        ("Smx2", []),
        ("irp", []),
        ("QUIC", []),
        ("rem", []),
        ("rema", []),
    ],
)
def test_entries(tags, tag, expected):
    assert found(tags, tag) == expected


def test_exact_before_question_mark_before_star(tags):
    assert [entry[0].strip() for entry in found(tags, "AfdB")] == ["AfdB", "Afd?", "A???", "Afd*"]
    assert [entry[0].strip() for entry in found(tags, "Afdz")] == ["Afd?", "A???", "Afd*"]
    assert found(tags, "AfdB")[0] == ("AfdB", "afd.sys", "Afd data buffer of the second kind")


def test_entries_say_where_they_stand(tags):
    assert tags.find_descriptions(PoolTag(b"Irp "))[0].source == "pooltag.txt:6"
    assert len(tags) == 14


@pytest.mark.parametrize("name", ["rktools2k3-pooltag.txt", "systeminformer-pooltag.txt"])
def test_microsofts_lists(evidence, name):
    path = evidence / "pooltag" / name
    tags = load_pooltags(path)
    # the dash behind the tag is in column 4, 5 or 6 of every entry; ReMo is a tag and not a remark
    lines = [line for line in path.read_text("latin-1").split("\n") if line.lower().split()[:1] != ["rem"]]
    entries = [line for line in lines if line[:1].strip() and line[:2] != "//" and "- " in line[4:8]]
    assert len(tags) == len(entries) > 1700
    patterns = [line[:4] for line in entries]
    wild = [pattern for pattern in patterns if "?" in pattern or "*" in pattern]
    assert sum("*" in entry.pattern or "?" in entry.pattern for entry in tags) == len(wild) > 60
    assert [entry.pattern for entry in tags] == patterns
    for pattern in {pattern for pattern in patterns if pattern not in wild}:
        descriptions = tags.find_descriptions(PoolTag(pattern.encode("latin-1")))
        assert [entry.pattern for entry in descriptions].count(pattern) == patterns.count(pattern)
    unknown = sum("- <unknown>" in line for line in entries)
    no_binary = sum(line.count("- ") == 1 and " -" not in line[8:] for line in entries)
    assert sum(not entry.module for entry in tags) == unknown + no_binary
    assert all(entry.text == entry.text.strip() and "<unknown>" not in entry.text for entry in tags)


PATTERN = st.text("AB?", min_size=1, max_size=4) | st.text("AB?", max_size=3).map(lambda start: start + "*")
TAG = st.text("AB ", min_size=4, max_size=4).filter(lambda tag: not tag.startswith(" "))


@given(st.lists(PATTERN, max_size=12), TAG)
def test_matching_obeys_its_laws(patterns, tag):
    entries = [TagDescription(pattern.ljust(4), "m.sys", str(number), "x") for number, pattern in enumerate(patterns)]
    best = PoolTagList(entries).find_descriptions(PoolTag(tag.encode()))

    def matches(pattern):
        if "*" in pattern:
            pattern, text = pattern.partition("*")[0], tag[: pattern.index("*")]
        else:
            pattern, text = pattern.ljust(4), tag
        return all(wanted in ("?", character) for wanted, character in zip(pattern, text))

    assert sorted(int(entry.text) for entry in best) == [n for n, pattern in enumerate(patterns) if matches(pattern)]

    def order(entry):
        letters = len(entry.pattern.partition("*")[0].replace("?", ""))
        return "*" in entry.pattern, "?" in entry.pattern and "*" not in entry.pattern, -letters, int(entry.text)

    assert list(best) == sorted(best, key=order)


@given(st.text(max_size=300))
def test_any_text_parses(text):
    for entry in parse_pooltags(text, "x"):
        assert len(entry.pattern) == 4


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("cp1252", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")],
)
def test_encodings(tmp_path, encoding, mark):
    path = tmp_path / "localtag.txt"
    path.write_bytes(mark + "Abcd - caf\xe9.sys - \u201cquoted\u201d\r\n".encode(encoding))
    assert [(entry.module, entry.text) for entry in load_pooltags(path)] == [("caf\xe9.sys", "\u201cquoted\u201d")]


@pytest.mark.parametrize("content", [b"", b"MZ\x90\0" * 99, b"rem only comments\n", b"x" * (MAX_LIST_BYTES + 1)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "pooltag.txt"
    path.write_bytes(content)
    with pytest.raises(RecordFormatError, match="expected"):
        load_pooltags(path)


@pytest.mark.parametrize("name", ["absent.txt", "."])
def test_unreadable_files_are_refused(tmp_path, name):
    with pytest.raises(RecordFormatError):
        load_pooltags(tmp_path / name)


def test_usual_places(tmp_path):
    kits = tmp_path / "x86" / "Windows Kits" / "10" / "Debuggers" / "x64" / "triage"
    old = tmp_path / "files" / "Debugging Tools for Windows (x64)" / "triage"
    for folder in (kits, old, tmp_path / "here"):
        folder.mkdir(parents=True)
        (folder / "pooltag.txt").write_text("Abcd - x.sys - y\n")
    environment = {"ProgramFiles(x86)": str(tmp_path / "x86"), "ProgramFiles": str(tmp_path / "files")}
    assert find_pooltags(tmp_path / "here", environment) == tuple(
        folder / "pooltag.txt" for folder in (tmp_path / "here", kits, old)
    )
    assert find_pooltags(tmp_path, {}) == ()


def test_evidence_of_a_list(tags):
    (item,) = TagListAttributor(EvidenceKind.POOLTAG_TXT, tags).evidence(PoolTag(b"CMAl"))
    assert (item.kind, item.module, item.confidence) == ("pooltag.txt", "nt", Confidence.POSSIBLE)
    assert "nt!cm - internal registry" in item.detail
    assert list(TagListAttributor(EvidenceKind.POOLTAG_TXT, tags).evidence(PoolTag(b"Irp "))) == [], (
        "no module, no owner"
    )


def test_builtin_table():
    tags = load_knowntags()
    assert load_knowntags() is tags
    (token,) = tags.find_descriptions(PoolTag(b"Toke"))
    assert (token.module, token.tag_class) == ("nt", "object")
    assert {entry.tag_class for entry in tags} == {"object", "cache", "component", "generic"}
    for entry in tags:
        assert len(entry.pattern) == 4
        assert entry.text
        assert entry.next_question
        assert not entry.module.startswith("(")
    assert len({entry.pattern for entry in tags}) == len(tags) > 250
    assert {item.kind for item in TagListAttributor(EvidenceKind.BUILTIN, tags).evidence(PoolTag(b"NtFs"))} <= {
        "builtin"
    }
