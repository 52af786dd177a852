"""Every scenario of the forge, on every build and kind of dump: the answer equals the truth that the forge wrote."""

from __future__ import annotations

import json
from collections import namedtuple
from datetime import datetime

import pytest

from dumps.forge import BUILDS, SCENARIOS, forge
from pykdext.cli.main import main

KINDS = (1, 5, 6)
OF_OBJECTS = ("handles", "zombies", "keys", "references", "lookaside", "verifier")
"""Large machines: one container is enough, and a small background."""

EVERYTHING = [
    (scenario, build, 6 if scenario in OF_OBJECTS else KINDS[(row + column) % len(KINDS)])
    for row, scenario in enumerate(SCENARIOS)
    for column, build in enumerate(BUILDS)
]
"""Every scenario on every build, and each of both in every container, whose pages other tests compare one by one."""

Forged = namedtuple("Forged", "scenario build kind machine dump")


@pytest.fixture(scope="module", params=EVERYTHING, ids=lambda value: "-".join(map(str, value)))
def forged(request, tmp_path_factory):
    """One of all dumps, with the machine that it was made of."""
    scenario, build, kind = request.param
    machine = forge(scenario, build=build, healthy_share=32)
    dump = tmp_path_factory.mktemp("forged") / "MEMORY.DMP"
    machine.save(dump, kind=kind)
    yield Forged(scenario, build, kind, machine, dump)
    dump.unlink()


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_tag_table_equals_the_truth(forged, capsys):
    _, build, kind, machine, dump = forged
    truth = machine.truth

    status, out, _ = run(capsys, "used", dump, "--format", "json")
    document = json.loads(out)
    found = {
        bytes.fromhex(row["hex"]): tuple(
            row[pool][counter] for pool in ("nonpaged", "paged") for counter in ("allocs", "frees", "bytes")
        )
        for row in document["tags"]
    }
    expected = {
        tag: (
            counters.nonpaged_allocs,
            counters.nonpaged_frees,
            counters.nonpaged_bytes,
            counters.paged_allocs,
            counters.paged_frees,
            counters.paged_bytes,
        )
        for tag, counters in truth.tags.items()
    }
    assert found == expected
    assert status == 0
    assert document["os"] == {"build": build, "arch": "x64", "processors": truth.processors}
    assert datetime.fromisoformat(document["taken_at"]) == truth.taken_at
    assert document["uptime_seconds"] == pytest.approx(truth.uptime_seconds)
    assert (document["bugcheck"]["code"], *document["bugcheck"]["parameters"]) == truth.bugcheck
    assert document["source"]["symbols"] == "profile"
    assert document["coverage"]["processor_tables"] == {"read": truth.processors, "expected": truth.processors}
    assert f"type {kind}" in document["source"]["kind"]


def test_the_verdict_equals_the_truth(forged, capsys):
    scenario, _, _, machine, dump = forged
    status, out, _ = run(capsys, dump, "--format", "json")
    report = json.loads(out)
    assert status == 0
    if machine.truth.leak is None:
        assert report["suspects"] == []
        assert "Nothing stands out" in report["verdict"]
        return
    tag, pool, module = machine.truth.leak
    suspect = next(suspect for suspect in report["suspects"] if bytes.fromhex(suspect["hex"]) == tag)
    assert suspect["pool"] == pool
    owners = [owner["module"] for owner in suspect["owners"] if owner["confidence"] != "possible"]
    expected = () if scenario == "missing" else machine.truth.owners.get(tag, ())
    assert set(owners) == set(expected)
    if scenario in ("toke", "references", "requests"):
        assert suspect["role"] == "object"
        assert module in report["verdict"]
        return
    assert suspect is report["suspects"][0]
    assert suspect["role"] == ("cause" if expected else "unknown")
    assert all(owner in report["verdict"] for owner in expected)
    if scenario == "missing":
        assert any("not wholly in memory" in warning and module in warning for warning in report["warnings"])


@pytest.mark.parametrize("build", BUILDS)
def test_an_unknown_kernel_is_read_by_inference(build, tmp_path, capsys):
    machine = forge("pipo", build=build, known_kernel=False)
    dump = tmp_path / "unknown.dmp"
    machine.save(dump)
    _, out, _ = run(capsys, "used", dump, "--format", "json")
    document = json.loads(out)
    assert document["source"]["symbols"] == "inference+code"
    assert document["coverage"]["processor_tables"] == {"read": 4, "expected": 4}
    row = next(row for row in document["tags"] if row["tag"] == "Pipo")
    assert row["nonpaged"]["bytes"] == machine.truth.tags[b"Pipo"].nonpaged_bytes


@pytest.mark.parametrize("processors", [1, 2, 7, 64])
def test_any_number_of_processors(processors, tmp_path, capsys):
    machine = forge("pipo", build=19041, processors=processors)
    dump = tmp_path / "many.dmp"
    machine.save(dump)
    _, out, _ = run(capsys, "used", dump, "--format", "json", "--tag", "Pipo")
    document = json.loads(out)
    assert document["coverage"]["processor_tables"]["read"] == processors
    assert document["tags"][0]["nonpaged"]["bytes"] == machine.truth.tags[b"Pipo"].nonpaged_bytes


def test_owners_of_healthy_drivers(tmp_path, capsys):
    """The idioms of the sample drivers: a lookaside list, a global variable, a registration table."""
    machine = forge("quiet", build=19041)
    dump = tmp_path / "quiet.dmp"
    machine.save(dump)
    _, out, _ = run(capsys, "find", "Look", "Glob", "Ctxr", dump, "--format", "json")
    document = json.loads(out)
    first = {entry["tag"]: entry["owners"][0] for entry in document["tags"]}
    assert {tag: owner["module"] for tag, owner in first.items()} == {
        "Look": "lookas.sys",
        "Glob": "globus.sys",
        "Ctxr": "ctxreg.sys",
    }
    assert [first[tag]["confidence"] for tag in ("Look", "Glob", "Ctxr")] == ["proven", "proven", "proven"]
    assert first["Look"]["version"]["company"] == "poolleak sample drivers"
    assert document["tags"][0]["coverage"]["modules_scanned"] == len(machine.truth.modules)
