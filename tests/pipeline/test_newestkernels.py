"""Windows as it runs today: builds whose kernels nobody published symbols of, read by what their memory holds."""

from __future__ import annotations

import json

import pytest

from dumps.forge import forge
from pykdext.cli.main import main

BUILDS = (22621, 22631, 25398, 26100, 26200)


@pytest.mark.parametrize("build", BUILDS)
def test_tags_and_big_blocks_of_a_kernel_of_today(build, tmp_path, capsys):
    machine = forge("pipo", build=22000, seed=build, known_kernel=False)
    machine.header.build = build
    dump = tmp_path / "today.dmp"
    machine.save(dump)
    assert main(["used", str(dump), "--format", "json"]) == 0
    used = json.loads(capsys.readouterr().out)
    assert used["source"]["symbols"] == "inference+code"
    assert {bytes.fromhex(row["hex"]): row["nonpaged"]["bytes"] for row in used["tags"]} == {
        tag: row.nonpaged_bytes for tag, row in machine.truth.tags.items()
    }
    assert not any("not known for" in warning for warning in used["warnings"])
    assert main(["blocks", "CM31", str(dump), "--format", "json"]) == 0
    blocks = json.loads(capsys.readouterr().out)
    assert blocks["sizes"] == [{"size_bytes": 0x2000, "blocks": 122}] and blocks["warnings"] == []
    assert {block["pool"] for block in blocks["blocks"]} == {"paged"}
    assert {block["address"] for block in blocks["blocks"]} <= set(machine.truth.big_blocks)
