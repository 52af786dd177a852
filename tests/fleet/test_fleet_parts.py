"""The parts of a batch that need no dump: hosts of paths, lists of files, the common denominator, CSV."""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections import Counter
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.fleet.common import find_common
from pykdext.fleet.hosts import find_host, is_rule
from pykdext.fleet.inputs import find_inputs
from pykdext.model import Confidence, Role
from pykdext.model.fleet import BatchSummary, Driver, DumpRow, DumpStatus
from pykdext.model.report import Origin
from pykdext.report.batchdoc import iter_batch_csv, iter_batch_json
from pykdext.report.batchtext import render_batch_text
from pykdext.report.html import iter_batch_page
from pykdext.report.sentences.batches import describe_companion, name_suspect, verdict_on_batch
from pykdext.store.verdicts import parse_verdict


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/dumps/SRV01/MEMORY.DMP", "SRV01"),
        (r"\\share\dumps\SRV01\MEMORY.DMP", "SRV01"),
        (r"C:\Dumps\SRV01\Minidump\112326-12345-01.dmp", "SRV01"),
        ("/dumps/SRV01/MEMORY-1.DMP.gz", "SRV01"),
        ("/dumps/SRV-01.dmp", "SRV-01"),
        ("/dumps/srv01.corp.example.com.dmp", "srv01.corp.example.com"),
        ("/dumps/SRV01_MEMORY.DMP", "SRV01"),
        ("/dumps/MEMORY_SRV01.dmp.xz", "SRV01"),
        ("/dumps/SRV01-20261123-0310.dmp", "SRV01"),
        ("/dumps/SRV01_2026-11-23T03-10-00_full.dmp", "SRV01"),
        ("/dumps/2026-11-23/SRV01 crash dump.dmp", "SRV01"),
        ("/dumps/dumpster.dmp", "dumpster"),
        ("/dumps/fullerton01.dmp", "fullerton01"),
        ("https://store.example/night/SRV07/memory.dmp", "SRV07"),
        ("s3://bucket/SRV08.dmp", "SRV08"),
        ("https://user:pass@store.example/SRV09.dmp?sv=1&sig=a/b", "SRV09"),
        ("MEMORY.DMP", "MEMORY"),
    ],
)
def test_a_path_names_its_host(path, host):
    assert find_host(path) == host


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("folder", "rack7"),
        ("name", "dump-SRV01-0001"),
        ("dump-{host}-*.dmp", "SRV01"),
        ("{host}/rack7/*.dmp", "berlin"),
        ("other-{host}.dmp", "dump-SRV01-0001".replace("dump-", "")),
    ],
)
def test_the_user_may_say_where_the_host_stands(rule, host):
    assert find_host("/dumps/berlin/rack7/dump-SRV01-0001.dmp", rule) == host
    assert is_rule(rule)


def test_a_rule_names_the_host_once():
    assert not is_rule("*.dmp") and not is_rule("{host}/{host}.dmp")


def test_folders_give_what_may_be_a_dump(tmp_path):
    inner = tmp_path / "b"
    inner.mkdir()
    (tmp_path / "a.bin").write_bytes(b"PAGEDU64" + bytes(100))
    (inner / "c.packed").write_bytes(lzma.compress(b"x"))
    (inner / "d.json").write_text('{"schema": "poolleak.snapshot/1"}')
    (inner / "broken.DMP").write_bytes(b"")
    (inner / "readme.txt").write_text("no dump")
    found = find_inputs([str(tmp_path)])
    assert [path.path[len(str(tmp_path)) + 1 :] for path in found.dumps] == [
        "a.bin",
        "b/broken.DMP",
        "b/c.packed",
        "b/d.json",
    ]
    assert (found.passed_over, found.warnings) == (1, ())


def test_a_file_is_read_once_however_often_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.dmp").write_bytes(b"PAGEDU64")
    monkeypatch.chdir(tmp_path)
    found = find_inputs(["a.dmp", str(tmp_path), "*.dmp", "a*", str(tmp_path / "readme.txt")])
    assert [dump.path for dump in found.dumps] == ["a.dmp", str(tmp_path / "readme.txt")]


def row(host, suspects, drivers=(("pippo.sys", "1.0"),), status=DumpStatus.DONE, role="cause", warnings=(), holders=()):
    report = {
        "suspects": [
            {
                "tag": tag.decode(),
                "hex": tag.hex(),
                "pool": "nonpaged",
                "bytes": held,
                "outstanding": 1,
                "role": role,
                "owners": [{"module": module, "confidence": confidence} for module, confidence in owners],
            }
            for tag, held, owners in suspects
        ],
        "schema": "poolleak.report/1",
        "warnings": list(warnings),
        "subject": {"taken_at": None, "os": {"build": 19041}, "uptime_seconds": None},
        "verdict": "it leaks",
        "holders": [
            {"hex": tag.hex(), "holder": {"pid": 4, "image": image, "held": held} if image else None}
            for tag, image, held in holders
        ],
    }
    return DumpRow(
        f"/{host}.dmp", host, status, None, parse_verdict(report), tuple(Driver(*driver) for driver in drivers)
    )


PIPPO = [("pippo.sys", "proven")]


def linked(host, owners=(("holder.sys", "proven"),), status=DumpStatus.DONE, version="7.1", blocks=900_000, small=()):
    """A host on which each block of Hldr, small, holds a Toke, large; Hldr may be no suspect by its size."""
    tags = [
        ("Toke", 7 << 30, blocks, "object", ()),
        ("Hldr", 60 << 20, blocks, "cause" if owners else "unknown", owners),
    ]
    entries = [
        {
            "tag": tag,
            "hex": tag.encode().hex(),
            "pool": "paged",
            "bytes": held,
            "outstanding": count,
            "role": role,
            "owners": [{"module": module, "confidence": confidence} for module, confidence in named],
        }
        for tag, held, count, role, named in tags
    ]
    members = [
        {"hex": item["hex"], "pool": "paged", "blocks": item["outstanding"], "role": role}
        for item, role in zip(entries, ("object", "cause"))
    ]
    document = {
        **row(host, []).verdict.document,
        "suspects": [item for item in entries if item["tag"] not in small],
        "companions": [item for item in entries if item["tag"] in small],
        "groups": [{"members": members}],
    }
    return DumpRow(f"/{host}.dmp", host, status, None, parse_verdict(document), (Driver("holder.sys", version),))


LINKED = [
    *(linked(host, small=["Hldr"] if host in "ab" else []) for host in "abcde"),
    *(linked(host, owners=(), status=DumpStatus.PARTIAL) for host in "fg"),
    row("h", []),
    row("i", []),
]


def test_causes_are_ordered_by_hosts_then_bytes():
    found = find_common(
        [
            row("a", [(b"Few1", 900, PIPPO), (b"Many", 1, PIPPO)]),
            row("b", [(b"Many", 2, PIPPO)]),
            row("c", [(b"Few2", 901, PIPPO)]),
        ]
    )
    assert [(cause.tag.text, cause.hosts, cause.bytes) for cause in found] == [
        ("Many", ("a", "b"), 3),
        ("Few2", ("c",), 901),
        ("Few1", ("a",), 900),
    ]


def test_an_object_of_windows_is_no_cause_on_however_many_hosts():
    rows = [row(host, [(b"Toke", 900, [("ntoskrnl.exe", "proven")])], role="object") for host in "abc"]
    cause, victim = find_common([*rows, row("d", [(b"Hldr", 1, PIPPO)])])
    assert (cause.tag.text, cause.module, cause.role) == ("Hldr", "pippo.sys", Role.CAUSE)
    assert (victim.tag.text, victim.module, victim.role) == ("Toke", None, Role.OBJECT)
    assert victim.hosts == ("a", "b", "c") and victim.other_versions == victim.quiet_hosts == ()


@pytest.mark.parametrize("role", ["object", "shared", "cache"])
def test_a_tag_that_tells_no_caller_names_no_driver_and_comes_last(role):
    shared = [row(host, [(b"Ddk ", 9000, [("nt", "likely")])], role=role) for host in "abc"]
    first, last = find_common([*shared, row("d", LEAK)])
    assert (first.module, last.tag.text, last.module) == ("pippo.sys", "Ddk ", None)
    assert last.hosts == ("a", "b", "c")


def test_programs_that_hold_objects_are_counted_over_the_hosts():
    """By the name of the image; of a host with several dumps the most counts, and a verdict that names nobody none."""
    held = {"a": [("watchman.exe", 70)], "b": [("WATCHMAN.EXE", 50)], "c": [("other.exe", 900)], "d": [(None, 0)]}
    rows = [
        row(host, [(b"Proc", 900, [])], role="object", holders=[(b"Proc", *item) for item in items])
        for host, items in (*held.items(), ("a", [("watchman.exe", 60)]))
    ]
    (cause,) = find_common(rows)
    assert [(holder.image, holder.hosts, holder.held) for holder in cause.holders] == [
        ("watchman.exe", ("a", "b"), 120),
        ("other.exe", ("c",), 900),
    ]
    summary = BatchSummary(5, 0, {DumpStatus.DONE: 5}, 4, 1.0, 0, 0, (cause,), ())
    assert verdict_on_batch(summary) == (
        "Tag Proc of the nonpaged pool stands out on 4 of 4 hosts: watchman.exe holds the objects on 2 of them."
    )
    text = render_batch_text(summary, rows, 100)
    assert "held by watchman.exe (120 handles) on 2 hosts: a, b" in text
    (unheld,) = find_common([row("a", [(b"Proc", 900, [])], role="object")])
    assert unheld.holders == ()


def test_what_hangs_together_on_several_hosts_is_one_finding():
    (cause,) = find_common(LINKED)
    assert (cause.tag.text, cause.module, cause.role) == ("Hldr", "holder.sys", Role.CAUSE)
    assert cause.hosts == tuple("abcdefg")
    assert cause.confident_hosts == tuple("abcde") and cause.unowned_hosts == ("f", "g")
    (toke,) = cause.companions
    assert (toke.tag.text, toke.role, toke.modules, toke.ratio) == ("Toke", Role.OBJECT, (), 1.0)
    assert (toke.hosts, toke.alone_hosts, toke.bytes) == (cause.hosts, (), 49 << 30)
    assert verdict_of(LINKED) == (
        "Toke with Hldr of the paged pool look like one leak on 7 of 9 hosts: "
        "holder.sys 7.1 allocates Hldr (proven on 5 of them)."
    )


def test_without_blocks_nothing_is_said_of_their_ratio():
    (cause,) = find_common(LINKED)
    companion = cause.companions[0]
    assert ", " in describe_companion(cause, companion).partition(")")[2].partition(":")[0]
    assert describe_companion(cause, replace(companion, ratio=0.0)).partition(")")[2].startswith(":")


def test_one_finding_stands_in_every_format():
    summary = BatchSummary(9, 0, Counter(item.status for item in LINKED), 9, 1.0, 0, 0, find_common(LINKED), ())
    text = render_batch_text(summary, LINKED, 100)
    assert "1. Toke with Hldr of the paged pool  holder.sys 7.1 (proven)" in text and "\n2." not in text
    assert "with Toke (paged, an object of Windows), one for each of the blocks of Hldr: 49.0 GB on" in text
    assert "no driver tied to it on f, g" in text and "Toke with Hldr  Paged" in text
    document = json.loads("".join(iter_batch_json(summary, ())))
    assert document["verdict"] == verdict_of(LINKED)
    (found,) = document["common"]
    assert [item["tag"] for item in found["companions"]] == ["Toke"] and found["unowned_hosts"] == ["f", "g"]
    listed = json.loads(resources.read_text("pykdext.report.schemas", "batch-1.json"))["properties"]["common"]["items"]
    assert set(found) == set(listed["required"]) == set(listed["properties"])
    assert set(found["companions"][0]) == set(listed["properties"]["companions"]["items"]["required"])
    lines = list(csv.DictReader(io.StringIO("".join(iter_batch_csv(LINKED)))))
    first = lines[0]
    assert [first[name] for name in ("tag", "together_with", "holder", "holder_module")] == [
        *("Toke", "Hldr", "Hldr", "holder.sys")
    ]
    page = "".join(iter_batch_page(summary, LINKED, Origin("batch", "0", datetime(2026, 1, 1))))
    assert page.count("Toke with Hldr") > 7 and "one for each of the blocks of Hldr" in page


def test_one_leak_of_several_drivers_versions_says_where_each_part_is():
    rows = [linked("a"), linked("b", version="8.0"), linked("c"), row("d", [(b"Toke", 1 << 30, [])], role="object")]
    first, second, other_pool = find_common(rows)
    assert (other_pool.pool.value, other_pool.hosts, other_pool.companions) == ("nonpaged", ("d",), ())
    assert [(item.version, item.hosts, item.companions[0].hosts) for item in (first, second)] == [
        ("7.1", ("a", "c"), ("a", "c")),
        ("8.0", ("b",), ("b",)),
    ]

    assert verdict_of(rows).startswith("Toke with Hldr of the paged pool look like one leak on 3 of 4 hosts: ")
    assert "holder.sys 7.1 and 8.0 allocates Hldr (proven on all of them). Other tags stand out on 1 more: d." in (
        verdict_of(rows)
    )


def test_what_takes_the_memory_may_stand_out_alone_elsewhere():
    alone = linked("b")
    alone = replace(alone, verdict=replace(alone.verdict, suspects=alone.verdict.suspects[:1], groups=()))
    assert verdict_of([linked("a"), alone, row("c", [])]) == (
        "Toke with Hldr of the paged pool look like one leak on 1 of 3 hosts: holder.sys 7.1 allocates Hldr "
        "(proven there). Toke stands out without it on 1 more: b."
    )


def test_tags_that_agree_by_chance_on_few_hosts_stay_apart():
    apart = [
        replace(item, host=host, verdict=replace(item.verdict, groups=())) for host in "xyz" for item in (linked(host),)
    ]
    found = find_common([linked("a"), *apart])
    assert [(item.tag.text, item.companions) for item in found] == [("Hldr", ()), ("Toke", ())]


def test_objects_alone_are_no_cause_even_together():
    rows = [
        replace(
            item,
            verdict=replace(
                item.verdict,
                suspects=tuple(replace(suspect, role=Role.OBJECT, owners=()) for suspect in item.verdict.suspects),
            ),
        )
        for item in map(linked, "ab")
    ]
    assert verdict_of(rows).endswith("on 2 of 2 hosts: none of these tags tells who allocates it.")


def test_a_host_counts_once_with_its_largest_dump():
    (cause,) = find_common([row("a", [(b"Pipo", held, PIPPO)]) for held in (5, 9, 7)])
    assert (cause.hosts, cause.dumps, cause.bytes) == (("a",), 3, 9)


def test_versions_are_told_apart():
    leak = [(b"Pipo", 10, PIPPO)]
    found = find_common(
        [
            row("a", leak),
            row("b", leak, [("PIPPO.SYS", "1.0")]),
            row("quiet", []),
            row("new", [], [("pippo.sys", "2.0")]),
            row("newer", leak, [("pippo.sys", "3.0")]),
            row("newer quiet", [], [("pippo.sys", "3.0")]),
            row("without", [], [("nt", None)]),
        ]
    )
    first, second = found
    assert (first.version, first.hosts, first.quiet_hosts) == ("1.0", ("a", "b"), ("quiet",))
    assert [(other.version, other.hosts, other.leaking_hosts) for other in first.other_versions] == [
        ("2.0", ("new",), ()),
        ("3.0", ("newer", "newer quiet"), ("newer",)),
    ]
    assert (second.version, second.hosts, second.quiet_hosts) == ("3.0", ("newer",), ("newer quiet",))


LEAK = [(b"Pipo", 10, PIPPO)]
NOT_OWNED = [(b"Pipo", 10, [])]


def test_a_host_that_leaks_is_never_called_quiet():
    """Whatever its dump lacks: the version resource, the driver's code, or what would tell its role."""
    found = find_common(
        [
            row("a", LEAK),
            row("quiet", []),
            row("no version", LEAK, [("pippo.sys", None)]),
            row("no owner", NOT_OWNED),
            row("victim", LEAK, role="victim"),
            row("both", [], [("pippo.sys", "1.0")]),
            row("both", LEAK, [("pippo.sys", "2.0")]),
        ]
    )
    leaking = {"a", "no version", "no owner", "victim", "both"}
    assert {host for cause in found for host in cause.hosts} == leaking
    first = found[0]
    assert (first.version, first.role, first.hosts) == ("1.0", Role.CAUSE, ("a", "victim"))
    for cause in found:
        quiet = {host for other in cause.other_versions for host in other.hosts if host not in other.leaking_hosts}
        assert not leaking & {*cause.quiet_hosts, *quiet}
        if cause.module:
            assert "quiet" in {*cause.quiet_hosts, *quiet}


def test_a_dump_that_was_read_in_part_proves_no_host_quiet():
    rows = [row("a", LEAK), row("half", [], status=DumpStatus.PARTIAL)]
    (cause,) = find_common(rows)
    assert cause.quiet_hosts == ()
    (cause,) = find_common([*rows, row("half", [])])
    assert cause.quiet_hosts == ("half",)


@given(st.permutations(range(9)), st.data())
def test_the_order_of_the_dumps_means_nothing(order, data):
    suspects = st.sampled_from([[], LEAK, NOT_OWNED, [(b"Toke", 5, PIPPO)], [*LEAK, (b"Toke", 7, [])]])
    drivers = st.sampled_from([[], [("pippo.sys", "1.0")], [("PIPPO.SYS", None)]])
    statuses = st.sampled_from([DumpStatus.DONE, DumpStatus.PARTIAL])
    roles = st.sampled_from(["cause", "victim", "object", "unknown"])
    groups = [
        linked,
        partial(linked, owners=(), blocks=500_000),
        partial(linked, version="8.0", small=["Hldr"]),
        partial(linked, owners=[("HOLDER.sys", "likely")], status=DumpStatus.PARTIAL),
    ]
    rows = [
        data.draw(st.sampled_from(groups))(f"h{n % 5}")
        if data.draw(st.booleans())
        else row(f"h{n % 5}", data.draw(suspects), data.draw(drivers), data.draw(statuses), data.draw(roles))
        for n in range(9)
    ]
    assert _without_spelling(find_common(rows)) == _without_spelling(find_common([rows[n] for n in order]))


def _without_spelling(causes):
    """The name of a driver as the first dump spells it may be in capitals."""
    return [
        replace(
            cause,
            module=cause.module and cause.module.lower(),
            companions=tuple(replace(item, modules=tuple(map(str.lower, item.modules))) for item in cause.companions),
        )
        for cause in causes
    ]


def test_a_possible_owner_is_not_named():
    (cause,) = find_common([row("a", [(b"Pipo", 10, [("pippo.sys", "possible")])])])
    assert (cause.module, cause.version, cause.confidence) == (None, None, None)


def test_every_likely_owner_is_a_cause_with_its_best_confidence():
    both = [("one.sys", "likely"), ("two.sys", "proven")]
    found = find_common([row("a", [(b"Dupl", 10, both)]), row("b", [(b"Dupl", 10, [("ONE.sys", "proven")])])])
    assert [(cause.module, cause.hosts, cause.confidence) for cause in found] == [
        ("one.sys", ("a", "b"), Confidence.PROVEN),
        ("two.sys", ("a",), Confidence.PROVEN),
    ]


def test_dumps_without_a_verdict_say_nothing():
    assert find_common([DumpRow("/x.dmp", "x", DumpStatus.CRASHED, "it crashed")]) == ()


def test_csv_has_a_line_for_each_suspect_and_each_failure():
    rows = [
        row("a", [(b"Pipo", 10, PIPPO), (b"=Ta1", 5, [])]),
        row("b", []),
        DumpRow("/c.dmp", "c", DumpStatus.CRASHED, "it\ncrashed"),
    ]
    read = list(csv.DictReader(io.StringIO("".join(iter_batch_csv(rows)))))
    assert [(line["host"], line["tag"], line["module"], line["version"]) for line in read] == [
        ("a", "Pipo", "pippo.sys", "1.0"),
        ("a", "'=Ta1", "", ""),
        ("b", "", "", ""),
        ("c", "", "", ""),
    ]
    assert read[-1]["error"] == r"it\ncrashed" and read[0]["verdict"] == "it leaks"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_hostile_names_neither_break_lines_nor_leave_the_page(width):
    rows = [row("evil\nhost\x1b[31m" * 9, [(b"Pipo", 10, [("x" * 300 + ".sys", "proven")])])]
    summary = BatchSummary(1, 0, dict.fromkeys(DumpStatus, 0), 1, 1.0, 0, 0, find_common(rows), ("w" * 300,))
    lines = render_batch_text(summary, rows, width).splitlines()
    assert not any("\x1b" in line for line in lines)
    assert not [line for line in lines if len(line) > width and "www" not in line and "xxx" not in line]


def test_what_a_partial_dump_lacks_is_told():
    lacks = ["1 of 4 processor tables is missing", "so are rows", "and more"]
    partial = row("a", [(b"Pipo", 1, PIPPO)], status=DumpStatus.PARTIAL, warnings=lacks)
    summary = BatchSummary(1, 0, {DumpStatus.PARTIAL: 1}, 1, 1.0, 0, 0, find_common([partial]), ())
    lines = render_batch_text(summary, [partial], 100).splitlines()
    assert "  a: partial: 1 of 4 processor tables is missing; so are rows" in lines


def verdict_of(rows):
    statuses = Counter(row.status for row in rows)
    hosts = {row.host for row in rows if row.verdict}
    return verdict_on_batch(BatchSummary(len(rows), 0, statuses, len(hosts), 1.0, 0, 0, find_common(rows), ()))


def test_the_headline_counts_every_host_that_leaks():
    other = [(b"Pgla", 99, [("pagella.sys", "proven")])]
    rows = [
        *(row(host, LEAK) for host in "ab"),
        *(row(host, LEAK, [("pippo.sys", "2.0")]) for host in "cd"),
        row("e", LEAK, [("pippo.sys", None)]),
        row("f", NOT_OWNED),
        *(row(host, other) for host in "ghi"),
        row("j", []),
    ]
    assert verdict_of(rows) == (
        "Tag Pipo of the nonpaged pool looks like a leak on 6 of 10 hosts: pippo.sys 1.0 and 2.0 uses it on 5 of them; "
        "no driver could be tied to it on 1. Other tags do on 3 more: g, h, i."
    )


def test_the_headline_counts_hosts_whose_driver_is_not_known_and_names_it_for_no_other():
    """Whichever is on more hosts, and where nothing is known of any."""
    lead = "Tag Pipo of the nonpaged pool"
    few = [row("a", LEAK), *(row(host, NOT_OWNED) for host in "bcd")]
    assert verdict_of(few) == (
        f"{lead} looks like a leak on 4 of 4 hosts: pippo.sys 1.0 uses it on 1 of them; "
        "no driver could be tied to it on 3."
    )
    assert verdict_of(few[1:]) == f"{lead} looks like a leak on 3 of 3 hosts."
    assert verdict_of(few[:1]) == f"{lead}, used by pippo.sys 1.0, looks like a leak on 1 of 1 host."
    seen_twice = [row("a", LEAK), row("a", NOT_OWNED)]  # of one dump it is known
    assert verdict_of(seen_twice) == f"{lead}, used by pippo.sys 1.0, looks like a leak on 1 of 1 host."


TWINS = [("twinone.sys", "proven"), ("twintwo.sys", "proven")]


def test_drivers_that_share_a_tag_are_named_together_or_each_with_its_hosts():
    lead = "Tag Dupl of the nonpaged pool"

    def dump(host, owners):
        return row(host, [(b"Dupl", 70, owners)], [(name, "1.0") for name, _ in owners])

    both = dump("a", TWINS)
    assert verdict_of([both]) == (
        f"{lead}, used by twinone.sys 1.0 or twintwo.sys 1.0, looks like a leak on 1 of 1 host."
    )
    assert name_suspect(both.verdict) == ("Dupl", "twinone.sys or twintwo.sys")
    assert verdict_of([both, dump("b", TWINS[1:]), dump("c", TWINS[:1]), dump("d", TWINS[1:])]) == (
        f"{lead} looks like a leak on 4 of 4 hosts: twintwo.sys 1.0 uses it on 3 of them; "
        "twinone.sys 1.0 uses it on 2 of them."
    )
    many = [(f"twin{number}.sys", "proven") for number in range(5)]
    assert name_suspect(dump("a", many).verdict)[1] == "twin0.sys or twin1.sys or 3 more"
    assert verdict_of([dump("a", many)]) == (
        f"{lead}, used by twin0.sys 1.0 or twin1.sys 1.0 or 3 more, looks like a leak on 1 of 1 host."
    )
    assert verdict_of([dump(host, [owner]) for host, owner in zip("abcde", many)]) == (
        f"{lead} looks like a leak on 5 of 5 hosts: twin0.sys 1.0 uses it on 1 of them; "
        "twin1.sys 1.0 uses it on 1 of them; 3 other drivers on 3."
    )
    unlike = dump("a", [("twinone.sys", "proven"), ("twintwo.sys", "likely")])
    assert name_suspect(unlike.verdict) == ("Dupl", "twinone.sys")


def test_a_batch_of_two_drivers_with_one_tag_names_both(tmp_path, capsys):
    forge("twins").save(tmp_path / "HOST.dmp")
    assert main(["batch", str(tmp_path), "--jobs", "1", "--width", "80"]) == 0
    text = capsys.readouterr().out
    assert "used by twinone.sys 2.9.4.0 or twintwo.sys 4.1.0.0, looks like a leak" in " ".join(text.split())
    assert next(line for line in text.splitlines() if line.startswith("HOST")).endswith("twinone.sys or twintwo.sys")


def test_dumps_that_say_little_do_not_make_their_hosts_healthy():
    half = row("half", [], status=DumpStatus.PARTIAL)
    gone = DumpRow("/gone.dmp", "gone", DumpStatus.CRASHED, "it crashed")
    assert verdict_of([row("a", [])]) == "No tag looks like a leak on any host."
    assert verdict_of([row("a", []), half]) == (
        "No tag looks like a leak in the 1 dump that could be read wholly; 1 other dump does not speak for its host."
    )
    assert "2 other dumps do not speak for their hosts" in verdict_of([row("a", []), half, gone])
    assert verdict_of([half, gone]) == "No tag stands out, but no dump was read wholly: that says nothing of the hosts."
