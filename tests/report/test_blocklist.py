"""The list of a tag's blocks fits its line, and shows each byte whole or not at all."""

from __future__ import annotations

import re

import pytest

from dumps.forge import forge
from pykdext.cli.main import main

BYTES = re.compile(r"^ffff\S+ +[0-9a-f]+h  (?:Nonp|Paged) +\S+ +((?:[0-9a-f]{2} )*[0-9a-f]{2})$", re.MULTILINE)


@pytest.fixture(scope="module", params=[("pipo", "Pipo"), ("paged", "Pgla")], ids=lambda param: param[0])
def listed(request, tmp_path_factory):
    scenario, tag = request.param
    folder = tmp_path_factory.mktemp("dumps")
    forge(scenario).save(folder / "x.dmp")
    return ["blocks", tag, str(folder / "x.dmp")]


@pytest.mark.parametrize("width", [80, 82, 83, 85, 86, 100, 200])
@pytest.mark.parametrize("form", ["text", "dml"])
def test_lines_fit_and_bytes_are_whole(width, form, listed, capsys):
    assert main([*listed, "--width", str(width), "--format", form]) == 0
    text = re.sub("<[^>]*>", "", capsys.readouterr().out)
    lines = text.splitlines()[1:]  # the first one is the path, which is not cut
    assert max(map(len, lines)) <= width
    found = BYTES.findall(text)
    assert len(found) >= 6 and len({len(row) for row in found}) == 1
    room = width - lines[lines.index(next(line for line in lines if "First bytes" in line))].index("First bytes")
    assert len(found[0].split()) == min(16, (room + 1) // 3) >= 13
    assert "..." not in "".join(found)
