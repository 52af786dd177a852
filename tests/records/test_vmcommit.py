"""The text of ``!vm``: its commit lines are those of a real Windows 10 machine, on which they add up."""

from __future__ import annotations

import json

import pytest

from pykdext.cli.main import main
from pykdext.records.vmcommit import parse_commit_sheet

LISTING = """
0: kd> !vm
Physical Memory:          1048222 (    4192888 Kb)
Available Pages:           602146 (    2408584 Kb)
ResAvail Pages:            957214 (    3828856 Kb)
NonPagedPool Usage:           121 (        484 Kb)
NonPagedPoolNx Usage:       11712 (      46848 Kb)
PagedPool Usage:            37079 (     148316 Kb)
Processor Commit:             728 (       2912 Kb)
Session Commit:              2947 (      11788 Kb)
Shared Commit:              24440 (      97760 Kb)
Special Pool:                   0 (          0 Kb)
Kernel Stacks:               6825 (      27300 Kb)
Pages For MDLs:              1378 (       5512 Kb)
ContigMem Pages:                0 (          0 Kb)
NonPagedPool Commit:        12147 (      48588 Kb)
PagedPool Commit:           37079 (     148316 Kb)
Driver Commit:              10370 (      41480 Kb)
Boot Commit:                 2167 (       8668 Kb)
PFN Array Commit:            6687 (      26748 Kb)
System PageTables:            446 (       1784 Kb)
ProcessLockedFilePages:        15 (         60 Kb)
Pagefile Hash Pages:            3 (         12 Kb)
Sum System Commit:         105232 (     420928 Kb)
Total Private:             161822 (     647288 Kb)
Misc/Transient Commit:       2124 (       8496 Kb)
Committed pages:           269178 (    1076712 Kb)
Commit limit:             1179294 (    4717176 Kb)
"""
MDL = "Pages For MDLs:            160000 (     640000 Kb)"
GARBAGE = "PagedPool Commit:  18446744073709523456 (73786976294838093824 Kb)"


def test_the_lines_of_a_real_machine_add_up():
    sheet = parse_commit_sheet(LISTING)
    private = next(line.bytes for line in sheet.lines if line.name == "Total Private")
    assert sum(line.bytes for line in sheet.lines) - private == 105232 << 12
    assert sheet.committed_bytes == 269178 << 12
    assert sheet.unexplained_bytes == 2124 << 12  # what the debugger itself calls transient
    assert sheet.resident_available_bytes == 957214 << 12
    assert not sheet.doubtful


def test_a_line_of_garbage_is_left_out_and_named():
    sheet = parse_commit_sheet(LISTING.replace("PagedPool Commit:           37079 (     148316 Kb)", GARBAGE))
    assert sheet.doubtful == ("PagedPool Commit",)


def test_a_text_without_such_lines_is_no_sheet():
    assert parse_commit_sheet("Physical Memory:   1048222 (    4192888 Kb)\nnothing else") is None


def test_the_memory_command_reads_it(tmp_path, capsys):
    path = tmp_path / "vm.txt"
    path.write_text(LISTING.replace("Pages For MDLs:              1378 (       5512 Kb)", MDL))
    main(["memory", str(path), "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["dominant"] == "pages that drivers allocated for MDLs"
    assert {line["name"] for line in document["commit"]["lines"]} >= {"Total Private", "Session Commit"}


@pytest.mark.parametrize("command", ["analyze", "memory"])
def test_pools_that_are_small_and_the_largest_counters_beside_them(tmp_path, capsys, command):
    """A Windows 7 whose drivers have committed half of everything: no kind that is known to be outside the tags."""
    path = tmp_path / "vm.txt"
    large = "Driver Commit:             160000 (     640000 Kb)"
    path.write_text(
        LISTING.replace("Driver Commit:              10370 (      41480 Kb)", large)
        .replace(
            "PagedPool Usage:            37079 (     148316 Kb)", "PagedPool Usage:             7079 (      28316 Kb)"
        )
        .replace(
            "Committed pages:           269178 (    1076712 Kb)", "Committed pages:           418808 (    1675232 Kb)"
        )
    )
    main([command, str(path), "--format", "json"])
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert "Total Private, 632 MB (39%) and Driver Commit, 625 MB (38%)" in verdict
    if command == "analyze":
        assert verdict.startswith("The pools hold 4.5% of the 1.60 GB that are committed: little.")
        assert "The source lists no tags" in verdict


def test_pools_that_hold_much_of_what_is_committed_are_not_called_small(tmp_path, capsys):
    path = tmp_path / "vm.txt"
    path.write_text(LISTING)
    main(["analyze", str(path), "--format", "json"])
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert verdict == "No verdict: the source lists no tags. Only they can tell which driver uses the pools."
