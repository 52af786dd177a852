"""The verdict names who holds an object's tag, and what is unusual of processes although no tag is large."""

from __future__ import annotations

import json

from dumps.forge import forge
from pykdext.cli.main import main


def verdict(capsys, machine, folder):
    machine.save(folder / "m.dmp")
    status = main([str(folder / "m.dmp"), "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def test_exited_processes_are_the_verdict(capsys, tmp_path):
    """25,000 exited processes are most of a small machine's nonpaged pool."""
    machine = forge("zombies", leaked=25_000, healthy_share=64)
    status, report = verdict(capsys, machine, tmp_path)
    assert status == 0
    held = next(holder for holder in report["holders"] if holder["tag"] == "Proc")
    odd = 25_000 // 1003
    sentence = (
        f"25,000 exited processes, {25_000 - odd:,} of them cmd.exe, are held by watchman.exe (pid 2428): "
        "a handle leak of that process."
    )
    assert sentence in held["verdict"]
    assert (held["kind"], held["grade"]) == ("zombies", "proven")
    assert sentence in report["verdict"]
    assert report["suspects"][0]["tag"] == "Proc"
    assert report["next_steps"][0]["command"] == "!handle 0 3 0n2428"


def test_exited_processes_are_said_although_no_tag_is_large(capsys, tmp_path):
    machine = forge("zombies", leaked=1_500, healthy_share=8)
    _, report = verdict(capsys, machine, tmp_path)
    assert report["suspects"] == []
    assert "1,500 processes have exited and are still held" in report["verdict"]


def test_a_list_and_a_record_of_driver_verifier_prove_owners(capsys, tmp_path):
    for scenario, tag, module, kind in (
        ("lookaside", "Lkas", "globus.sys", "lookaside"),
        ("verifier", "VfLk", "lookas.sys", "verifier"),
    ):
        _, report = verdict(capsys, forge(scenario, healthy_share=32), tmp_path)
        suspect = report["suspects"][0]
        assert suspect["tag"] == tag
        assert [(owner["module"], owner["confidence"]) for owner in suspect["owners"]] == [(module, "proven")]
        assert suspect["owners"][0]["evidence"][0]["kind"] == kind
        assert module in report["verdict"]


def test_a_companion_that_is_doubtful_is_not_named_by_a_blank(capsys, tmp_path):
    """On a machine of 32 bits the tokens seem to be more than its pool can be, and are left out."""
    machine = forge("references", build=2600, arch="x86", leaked=3_000_000, healthy_share=64)
    _, report = verdict(capsys, machine, tmp_path)
    assert report["verdict"].endswith("and looks like a leak of holder.sys (proven).")
