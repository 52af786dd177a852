"""What each command asks of pykd: calls and bytes, and that nothing is read twice (``-s`` shows the table)."""

from __future__ import annotations

import pytest

from tests.helpers.fakepykd import FakePykd
from tests.helpers.fakepykd_console import imported_once
from tests.helpers.windbgscreens import sample_machine, type_command

TABLE_BYTES = {(4, 1025): 4 * 1025 * 0x38, (16, 4097): 16 * 4097 * 0x38}

TABLES, IMAGES = 128 << 10, 1 << 20
"""What may be read beside the tag tables: the variables around them, or parts of all images."""

COMMANDS = {
    "poolleak used": (TABLES, 110),
    "poolleak used --view poolused": (TABLES, 110),
    "poolleak": (IMAGES, 330),
    "poolleak find Pipo Toke Look": (IMAGES, 330),
    "poolleak blocks Pipo": (TABLES, 110),
    "poolleak snapshot -o state.json": (TABLES, 110),
    "poolleak diff before.json": (TABLES, 110),
}
"""The bytes beside the tables, and the calls beside those that read the tables: three a table and one for 64 KiB."""


@pytest.fixture(autouse=True, scope="module")
def modules():
    """Importing asks pykd for nothing."""
    with imported_once():
        yield


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    path = tmp_path_factory.mktemp("states") / "before.json"
    assert type_command(f"poolleak snapshot -o {path}", FakePykd.of_machine(sample_machine())).status == 0
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("processors", "rows"), TABLE_BYTES, ids=["4 tables", "16 large tables"])
def test_calls_and_bytes(processors, rows, command, before, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command.replace("before.json", str(before))
    machine = sample_machine(processors=processors, table_rows=rows)
    fake = FakePykd.of_machine(machine)
    ended = type_command(words, fake)
    assert not ended.error
    tables = TABLE_BYTES[processors, rows]
    print(f"{command:32} {processors:3} tables {fake.bytes_read:10,} bytes {fake.call_count:5,} calls")
    for number in range(processors):
        assert fake.reads_of(machine.addresses[f"table:{number}"], rows * 0x38) == rows * 0x38
    assert fake.repeated_bytes() == 0
    assert fake.failures == []
    most_bytes, most_calls = COMMANDS[command]
    assert tables < fake.bytes_read < tables + most_bytes
    assert fake.call_count < most_calls + 4 * processors + tables / 0x10000


def test_processes_ask_for_a_sample_of_the_threads():
    """There are 2,212 of them on this machine, each on a page of its own or nearly so."""
    fake = FakePykd.of_machine(sample_machine("zombies", leaked=300))
    ended = type_command("poolleak processes", fake)
    assert not ended.error
    assert "In the table of numbers: about" in ended.text
    assert fake.repeated_bytes() == 0
    assert fake.bytes_read < 6 << 20
    assert fake.call_count < 1_500


@pytest.mark.parametrize("system", ["remote", "local"])
def test_live_kernels_are_not_asked_for_a_page_twice(system):
    fake = FakePykd.of_machine(sample_machine(), system=system)
    ended = type_command("poolleak", fake)
    assert not ended.error
    assert fake.repeated_bytes() == 0
    assert len(fake.failures) == len(set(fake.failures))
