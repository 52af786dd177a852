"""What growth comes to: the owners of what grew, in the words and documents of diff and trend."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.growth import compare_snapshots
from pykdext.model import PoolKind
from tests.helpers.builders import row, snapshot, usage


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growth")
    for name in ("quiet", "toke", "pipo"):
        forge(name, build=19041, pool_totals=True).save(folder / f"{name}.dmp")
    return folder


@pytest.fixture
def answer(capsys):
    def run(*words):
        main([*map(str, words), "--format", "json"])
        return json.loads(capsys.readouterr().out)

    return run


def test_two_dumps_name_the_driver_of_what_grew(answer, dumps):
    document = answer("diff", dumps / "quiet.dmp", dumps / "pipo.dmp")
    assert document["verdict"].startswith("Tag Pipo of the nonpaged pool grew most: by 1.94 GB")
    assert document["verdict"].endswith("; pippo.sys allocates it (proven).")
    assert (document["grown"][0]["role"], document["grown"][0]["owners"][0]["module"]) == ("cause", "pippo.sys")
    assert document["images"]["modules_scanned"] > 0
    assert document["pools"]["after"]["nonpaged"]["used_bytes"] > document["pools"]["before"]["nonpaged"]["used_bytes"]
    assert document["next_steps"][0]["command"] == "lmvm pippo"


def test_an_object_is_named_with_what_holds_it(answer, dumps):
    document = answer("diff", dumps / "quiet.dmp", dumps / "toke.dmp")
    assert "Tag Toke of the paged pool grew most" in document["verdict"]
    assert "the tag names the victim" in document["verdict"]
    assert "3,708,367 blocks of Hldr, which holder.sys (proven) allocates" in document["verdict"]
    assert {member["tag"] for member in document["groups"][0]["members"]} == {"Toke", "Hldr"}


def test_names_are_redacted_in_the_sentence_too(answer, dumps):
    document = answer("diff", dumps / "quiet.dmp", dumps / "pipo.dmp", "--redact")
    assert str(dumps) not in json.dumps(document)


def test_a_series_that_ends_in_a_dump_names_the_driver(answer, dumps, tmp_path):
    main(["snapshot", str(dumps / "pipo.dmp"), "-o", str(tmp_path / "last.json")])
    last = json.loads((tmp_path / "last.json").read_text())
    end = datetime.fromisoformat(last["taken_at"])
    for number in range(8):
        earlier = {**last, "taken_at": (end - timedelta(hours=8 - number)).isoformat()}
        earlier["uptime_seconds"] = last["uptime_seconds"] - 3600 * (8 - number)
        earlier["tags"] = [scale(row, (number + 1) / 9) if row["tag"] == "Pipo" else row for row in last["tags"]]
        (tmp_path / f"sample-{number}.json").write_text(json.dumps(earlier))
    (tmp_path / "last.json").unlink()
    document = answer("trend", tmp_path, dumps / "pipo.dmp")
    assert document["verdict"].startswith("Tag Pipo of the nonpaged pool grows by")
    assert "; pippo.sys allocates it (proven)." in document["verdict"]
    assert document["grown"][0]["owners"][0]["module"] == "pippo.sys"


def scale(row, share):
    counters = {name: round(count * share) for name, count in row["nonpaged"].items() if name != "clamped"}
    counters["outstanding"] = counters["allocs"] - counters["frees"]
    return {**row, "nonpaged": {**row["nonpaged"], **counters}}


def test_a_dump_that_was_overwritten_since_is_not_searched(answer, dumps, tmp_path):
    dump, kept = tmp_path / "MEMORY.DMP", tmp_path / "kept.json"
    forge("pipo", build=19041, pool_totals=True).save(dump)
    main(["snapshot", str(dump), "-o", str(kept)])
    forge("toke", build=19041, pool_totals=True).save(dump)
    document = answer("diff", dumps / "quiet.dmp", kept)
    assert document["images"] is None
    assert not document["grown"][0]["owners"]
    assert any("holds another state by now" in line for line in document["warnings"])


def test_a_total_that_did_not_change_is_zero():
    before = snapshot(row("Pipo", usage(9, 1, 900)), row("Pgla", paged=usage(9, 1, 500)))
    after = snapshot(row("Pipo", usage(19, 1, 2000)), row("Pgla", paged=usage(9, 1, 500)))
    diff = compare_snapshots(before, after)
    assert (diff.total_bytes(PoolKind.NONPAGED), diff.total_bytes(PoolKind.PAGED)) == (1100, 0)
