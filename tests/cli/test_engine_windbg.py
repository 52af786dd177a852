"""poolleak in Microsoft's own engine with the real pykd: the same screens as on the fake, and the fake as it is."""

from __future__ import annotations

import re

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from tests.engine.machines import AFTER_THE_ENGINE
from tests.engine.winengine import EngineUnavailable
from tests.engine.winpython import open_python_engine
from tests.helpers import idioms
from tests.helpers.fakepykd import FakePykd
from tests.helpers.windbgscreens import type_command
from tests.pdbs import read_pdb

pytestmark = pytest.mark.engine

SYMBOLS_MISSING = re.compile(r'\n?"ntkr\w+\.exe" was not found in the image list\.\n.*\.sympath\) is correct\.\n', re.S)
"""What the engine itself says when the first variable is asked for."""

PROGRESS = re.compile(r"(?m)^[\d,]+ of [\d,]+ \w.* \.\.\.\n")
"""Whether such a line is due depends on the load of the machine."""

FUNCTION = re.compile(r'"function": "(\w+\+0x[0-9a-f]+)"')

MACHINES = {
    "x64": ("pipo", 19041, "x64"),
    "x64 paged": ("paged", 7601, "x64"),
    "x86": ("pipo", 7601, "x86pae"),
}


@pytest.fixture(scope="module")
def engine():
    try:
        with open_python_engine() as engine:
            yield engine
    except EngineUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module", params=MACHINES)
def machine(request):
    scenario, build, arch = MACHINES[request.param]
    return forge(scenario, build=build, arch=arch)


@pytest.fixture(scope="module")
def dump(machine, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "MEMORY.DMP"
    machine.save(path)
    return path


COMMANDS = (
    "used --top 8",
    "used --view poolused --tag P*",
    "analyze",
    "find Pipo Toke",
    "blocks Pipo",
    "find <&>q",
    "used --format json --top 2",
)


@pytest.fixture(scope="module")
def screens(engine, dump):
    """What the engine shows for each of the commands, typed in one session."""
    return dict(zip(COMMANDS, engine.type_commands(dump, [command.split() for command in COMMANDS])))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_screens_are_those_of_the_fake(screens, machine, dump, command, monkeypatch):
    monkeypatch.delenv("_NT_SYMBOL_PATH", raising=False)
    fake = FakePykd.of_machine(machine, symbols=False, dump_path=dump)
    for name in AFTER_THE_ENGINE:
        if name in machine.addresses:
            fake.hide(machine.addresses[name], 1)
    answer = PROGRESS.sub("", screens[command])
    shown = SYMBOLS_MISSING.sub("", answer).strip("\n")
    expected = type_command(f"poolleak {command}", fake).text.strip("\n")
    assert shown == expected
    assert "not present in the dump file" not in shown


@pytest.mark.parametrize("architecture", ["x64", "x86"])
def test_the_engine_names_functions_as_we_do(engine, tmp_path, capsys, architecture):
    symbols = tmp_path / "symbols"
    symbols.mkdir()
    (symbols / "idioms-O2.pdb").write_bytes(read_pdb(f"idioms-O2-{architecture}"))
    driver = idioms.build.IMAGES / architecture / "idioms-O2.sys"
    idioms.forge_machine(architecture, [driver]).save(tmp_path / "m.dmp")
    words = ["find", "Drct", "Wrp2", "LkEx", "Glbl", "Fre1", "Tail"]
    main([*words, str(tmp_path / "m.dmp"), "--symbols", str(symbols), "--format", "json"])
    outside = FUNCTION.findall(capsys.readouterr().out)
    assert len(outside) >= 6
    assert FUNCTION.findall(engine.type_command(tmp_path / "m.dmp", [*words, "--format", "json"], symbols)) == outside


def test_errors_are_lines(engine, tmp_path):
    dump = tmp_path / "MEMORY.DMP"
    forge("quiet").save(dump)
    shown, missing = engine.type_commands(dump, [["used", "--top", "x"], ["nothing.dmp"]])
    assert "poolleak used: --top: found 'x'" in shown and "Traceback" not in shown
    assert "nothing.dmp: No such file" in missing
