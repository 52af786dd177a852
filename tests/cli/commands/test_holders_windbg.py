"""``holders`` and ``processes`` in the debugger: the same answer through the session, with links; calls and bytes."""

from __future__ import annotations

import pytest

from pykdext.cli.main import main
from tests.helpers.fakepykd import FakePykd
from tests.helpers.objectmachines import make_machine
from tests.helpers.windbgscreens import type_command

COSTS = {
    "poolleak holders Proc": ("zombies", 4 << 20, 1_600),
    "poolleak holders Even": ("handles", 4 << 20, 1_600),
    "poolleak processes": ("zombies", 4 << 20, 1_100),
}
"""The most bytes and calls beside those of the tag tables, on a machine with 432 processes or 2,200 handles."""


@pytest.mark.parametrize("command", COSTS)
def test_the_session_gives_the_same_answer_as_the_dump(command, tmp_path, capsys):
    scenario, most_bytes, most_calls = COSTS[command]
    machine = make_machine(scenario)
    fake = FakePykd.of_machine(machine)
    ended = type_command(command, fake)
    assert not ended.error
    print(f"{command:24} {fake.bytes_read:10,} bytes {fake.call_count:6,} calls")
    machine.save(tmp_path / "same.dmp")
    capsys.readouterr()
    main([*command.split()[1:], str(tmp_path / "same.dmp")])
    dump = " ".join(capsys.readouterr().out.split())
    text = " ".join(ended.text.split())
    for words in ("watchman.exe",) if scenario == "zombies" else ("printmon.exe (pid 4312)",):
        assert words in text
        assert words in dump
    tables = 4 * 1025 * 0x38
    assert fake.bytes_read < tables + most_bytes
    assert fake.call_count < most_calls
    markup = "".join(piece for piece, is_markup in ended.pieces if is_markup)
    assert ("!handle 0 3 0n" if "holders" in command else "!process ") in markup
