"""poolleak inside WinDbg: the whole command line over a fake pykd, as ``!py`` starts it."""

from __future__ import annotations

import html
import json
import re
import sys
import time

import pytest

from dumps.forge import SCENARIOS, forge
from pykdext.cli.main import main
from pykdext.cli.screen import LineProgress
from tests.helpers.fakepykd import FakeModule, FakePykd
from tests.helpers.fakepykd_console import DEBUGGER, find_broken_markup, imported_once, visible_text
from tests.helpers.windbgscreens import sample_machine, type_command, windbg_session

COMMANDS = {
    "poolleak": "analyze",
    "poolleak used": "used",
    "poolleak used --view poolused --tag T*": "used",
    "poolleak find Pipo Toke Look": "find",
    "poolleak blocks Pgla": "blocks",
}
SOURCE_LINES = ("session: ", "Tag tables located by: ")
PIECE = 16_000


@pytest.fixture
def fake():
    return FakePykd.of_machine(sample_machine())


@pytest.fixture
def hurt():
    """A machine of its own for tests that write to it."""
    return forge("pipo", build=19041)


@pytest.fixture
def modules():
    """For tests of many commands: what they import is the same for all of them."""
    with imported_once():
        yield


def check_screen(ended):
    """What holds for every screen: no traceback, whole markup, short pieces, harmless ASCII."""
    assert not ended.error
    assert not find_broken_markup(ended.pieces)
    assert all(len(text) <= PIECE for text, _ in ended.pieces)
    assert ended.text.isascii() and ended.text.replace("\n", "").isprintable()
    return ended.text


def commands(ended):
    markup = "".join(text for text, is_markup in ended.pieces if is_markup)
    return [html.unescape(found) for found in re.findall(r'<link cmd="([^"]*)">', markup)]


def squeeze(text, source):
    """The words of a report without what names its source."""
    lines = [" ".join(line.split()) for line in text.splitlines() if not line.startswith(SOURCE_LINES)]
    steps = ("poolleak snapshot", "poolleak used", "!py poolleak", "keep this state", "look at the largest")
    return [line for line in lines if source not in line and not line.startswith(steps)]


class TestReports:
    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_the_same_as_outside(self, scenario, tmp_path, capsys, monkeypatch, modules):
        monkeypatch.setenv("COLUMNS", "100")
        machine = sample_machine(scenario, healthy_share=32)
        dump = str(tmp_path / "MEMORY.DMP")
        machine.save(dump)
        for command, name in COMMANDS.items():
            words = command.split()[1:] or ["analyze"]
            native = main([*words, dump])
            outside = capsys.readouterr().out
            for symbols in (True, False):
                fake = FakePykd.of_machine(machine, symbols=symbols, dump_path=dump)
                ended = type_command(command, fake)
                inside = check_screen(ended)
                assert ended.status == native, symbols
                assert squeeze(inside, dump) == squeeze(outside, dump), symbols
                assert max(map(len, inside.splitlines())) <= 100
                assert fake.repeated_bytes() == 0
                assert len(fake.failures) == len(set(fake.failures))

    def test_links_lead_on(self, fake):
        linked = commands(type_command("poolleak", fake))
        assert "!py poolleak find Pipo" in linked
        assert "lmvm pippo" in linked
        assert "!poolused 2 Pipo" in linked
        assert "!poolfind Pipo 0" in linked
        assert "!py poolleak snapshot -o before.json" in linked
        assert any(command.startswith("ub ") for command in linked)
        assert any(command.startswith("ln ") for command in linked)

    def test_links_of_other_commands(self, fake):
        assert "!poolused 2 Pipo" in commands(type_command("poolleak find Pipo", fake))
        paged = FakePykd.of_machine(sample_machine("paged"))
        linked = commands(type_command("poolleak blocks Pgla", paged))
        assert "!poolfind Pgla 0" in linked
        assert any(command.startswith("!pool ") for command in linked)

    def test_every_command_that_is_linked_to_poolleak_works(self, fake):
        linked = commands(type_command("poolleak used --top 3", fake))
        assert linked[0] == "!py poolleak find Pipo"
        assert "pippo.sys" in windbg_session(linked[0][len("!py ") :])

    def test_as_a_module(self, fake):
        ended = type_command("-m pykdext used --top 1", fake)
        check_screen(ended)
        assert commands(ended) == ["!py -m pykdext find Pipo"]

    def test_json_is_plain_and_whole(self, fake):
        ended = type_command("poolleak used --format json", fake)
        assert json.loads(check_screen(ended))["schema"] == "poolleak.snapshot/1"
        assert len(ended.pieces) > 1
        assert not any(is_markup for _, is_markup in ended.pieces)

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_files_have_no_markup(self, fake, tmp_path, form):
        path = tmp_path / "with blank" / "out.txt"
        path.parent.mkdir()
        ended = type_command(f'poolleak --format {form} -o "{path}"', fake)
        assert (ended.status, ended.text) == (0, "")
        assert "<link" not in path.read_text() and "pippo.sys" in path.read_text()

    def test_baselines_are_files(self, fake, tmp_path):
        path = tmp_path / "before.json"
        assert type_command(f"poolleak snapshot -o {path}", fake).status == 0
        ended = type_command(f"poolleak diff {path}", FakePykd.of_machine(sample_machine()))
        assert "No tag differs." in check_screen(ended)

    def test_a_file_is_read_in_the_debugger_too(self, tmp_path):
        path = tmp_path / "a b.dmp"
        sample_machine().save(path)
        fake = FakePykd.of_machine(sample_machine("quiet"))
        ended = type_command(f'poolleak "{path}"', fake)
        assert "pippo.sys" in check_screen(ended)
        assert fake.bytes_read == 0
        assert f'!py poolleak find Pipo "{path}"' in commands(ended)
        assert all(command.endswith(f'"{path}"') for command in commands(ended))

    def test_outside_of_the_debugger_pykd_changes_nothing(self, fake, monkeypatch, capsys, tmp_path):
        fake.windbg = False
        fake.install(monkeypatch)
        sample_machine().save(tmp_path / "x.dmp")
        assert main(["used", "--top", "1", str(tmp_path / "x.dmp")]) == 0
        assert "<link" not in capsys.readouterr().out
        assert not fake.console.pieces


class TestWidth:
    """Nothing is wider than the 100 columns of the window, however long a word from outside is."""

    @pytest.fixture(autouse=True)
    def imported(self, modules):
        pass

    @pytest.fixture
    def deep(self, tmp_path):
        folder = tmp_path / ("deep-" * 40) / ("deeper-" * 30)
        folder.mkdir(parents=True)
        return folder

    def test_long_paths(self, fake, deep):
        state, dump, tags = deep / "before.json", deep / "MEMORY.DMP", deep / "pooltag.txt"
        sample_machine().save(dump)
        tags.write_text(f"Pipo - {'unbroken' * 30}.sys - {'text' * 60}\n")
        assert type_command(f'poolleak snapshot -o "{state}"', fake).status == 0
        for command in (
            f'"{dump}"',
            f'used "{dump}" --pooltags "{tags}"',
            f'used --view poolused "{dump}"',
            f'find Pipo "{dump}" --pooltags "{tags}"',
            f'find Pipo --explain --pooltags "{tags}"',
            f'blocks Pipo "{dump}"',
            f'diff "{state}"',
            f'diff "{state}" "{dump}"',
            f'trend "{state}" "{dump}"',
            f'used "{deep}/nothing.dmp"',
            f'snapshot -o "{deep}/nowhere/state.json"',
        ):
            text = check_screen(type_command(f"poolleak {command}", FakePykd.of_machine(sample_machine())))
            assert text and max(map(len, text.splitlines())) <= 100, command

    def test_many_tags_in_one_warning(self, hurt):
        for number in range(hurt.truth.processors):
            table = hurt.addresses[f"table:{number}"]
            rows = bytearray(hurt.read_virtual(table, hurt.table_bytes))
            rows[8::0x38] = b"\0" * len(rows[8::0x38])  # the low byte of the allocations: now more were freed
            hurt.write_virtual(table, bytes(rows))
        for command in ("poolleak", "poolleak used"):
            text = check_screen(type_command(command, FakePykd.of_machine(hurt)))
            assert max(map(len, text.splitlines())) <= 100


class TestEntry:
    @pytest.mark.parametrize(
        ("command", "status", "words"),
        [
            ("poolleak --help", 0, "usage: poolleak"),
            ("poolleak used --help", 0, "usage: poolleak used"),
            ("poolleak --version", 0, "poolleak "),
            ("poolleak used --top x", 2, "poolleak used: --top: found 'x', expected 1 or more"),
            ("poolleak find Toolong_", 2, "poolleak find: TAG: tag 'Toolong_'"),
            ("poolleak nothing.dmp", 3, "nothing.dmp: No such file"),
            ("poolleak trend nothing*", 3, "poolleak: "),
        ],
    )
    def test_usage_and_errors_are_shown(self, fake, command, status, words):
        ended = type_command(command, fake)
        assert words in check_screen(ended)
        assert ended.status == status

    @pytest.mark.parametrize("arguments", ['find ";q" "<&>"', "find '<&>'", 'find "a;b "', r"find \x3c\x26\x3e\x22"])
    def test_quotes_and_semicolons_in_arguments(self, fake, arguments):
        ended = type_command(f"poolleak {arguments}", fake)
        nobody, too_long = "Owner: unknown", "a pool tag has 1 to 4 characters"
        assert (nobody if ended.status == 0 else too_long) in check_screen(ended)

    def test_lost_arguments_are_recognised(self, fake, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["poolleak", "", ""])
        fake.install(monkeypatch)
        assert main() == 2
        words = " ".join(visible_text(fake.console.pieces).split())
        assert "without its bootstrapper" in words and ".load pykd" in words
        assert max(map(len, visible_text(fake.console.pieces).splitlines())) <= 100

    def test_a_debugger_without_pykd(self, monkeypatch, capsys):
        """Then the live machine must not be taken for the session."""
        monkeypatch.setitem(sys.modules, "pykd", None)
        monkeypatch.setattr(sys, "executable", DEBUGGER)
        assert main([]) == 3
        captured = capsys.readouterr()
        assert captured.err.startswith("poolleak: ") and captured.err.count("\n") == 1
        assert "!py -3.9 poolleak" in captured.err

    @pytest.mark.parametrize(
        ("system", "words"), [("process", "user-mode"), ("process dump", "user-mode"), ("none", "no session")]
    )
    def test_sessions_without_a_kernel(self, system, words):
        ended = type_command("poolleak", FakePykd.of_machine(sample_machine(), system=system))
        text = check_screen(ended)
        assert ended.status == 3
        assert words in text and "Hint: " in text and text.count("poolleak: ") == 1

    def test_without_symbols_the_tables_are_inferred_and_the_way_to_symbols_is_said(self):
        machine = sample_machine(known_kernel=False)
        ended = type_command("poolleak", FakePykd.of_machine(machine, symbols=False))
        text = check_screen(ended)
        assert "Tag tables located by: inference" in text and "pippo.sys (proven)" in text
        assert ".reload /f nt" in commands(ended)

    def test_the_engine_knows_private_symbols(self):
        machine = sample_machine(known_kernel=False)
        text = windbg_session("poolleak", FakePykd.of_machine(machine))
        assert "Tag tables located by: target" in text and ".reload" not in text

    def test_without_any_way_to_the_tables(self):
        fake = FakePykd.of_machine(sample_machine(known_kernel=False), symbols=False, system="local")
        nt = fake.modules[0]
        fake.hide(nt.begin(), nt.size())
        ended = type_command("poolleak", fake)
        words = " ".join(check_screen(ended).split())
        assert ended.status == 3
        assert ".symfix, then .reload /f nt" in words
        assert "pippo.sys" in words  # the drivers are listed all the same


class TestManners:
    def test_progress_is_a_line_every_few_seconds(self, fake, monkeypatch):
        seconds = iter(range(1_000_000))
        monkeypatch.setattr("pykdext.cli.screen.LINE_SECONDS", 3.0)
        monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
        text = check_screen(type_command("poolleak", fake))
        assert re.search(r"(?m)^[\d,]+ of [\d,]+ \w.* \.\.\.$", text)

    def test_progress_keeps_its_pace(self, monkeypatch):
        now, lines = [0.0], []
        monkeypatch.setattr("pykdext.cli.screen.LINE_SECONDS", 3.0)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        with LineProgress(lines.append) as progress:
            for step in range(100):
                now[0] = step * 0.1
                progress(step, 100, "driver images")
        assert len(lines) == int(9.9 / 3.0)
        assert lines[0] == "30 of 100 driver images ..."

    def test_a_pipe_gets_no_progress(self, capsys, monkeypatch, tmp_path):
        seconds = iter(range(1_000_000))
        sample_machine().save(tmp_path / "x.dmp")
        monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
        assert main([str(tmp_path / "x.dmp")]) == 0
        assert "..." not in capsys.readouterr().err


@pytest.mark.usefixtures("modules")
class TestDamage:
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.75, 0.8])
    def test_a_target_that_resumes(self, share):
        whole = FakePykd.of_machine(sample_machine())
        type_command("poolleak", whole)
        fake = FakePykd.of_machine(sample_machine())
        fake.run_at_call = round(whole.last_read_call * share)  # later ones only ask where memory is
        text = " ".join(check_screen(type_command("poolleak", fake)).split())
        assert "the target runs" in text or "not searched" in text or "in what is missing" in text

    def test_a_hole_in_a_table(self, hurt):
        fake = FakePykd.of_machine(hurt)
        fake.hide(hurt.addresses["table:1"] + 0x4000, 0x2000)
        ended = type_command("poolleak", fake)
        assert "rows are not in the target" in " ".join(check_screen(ended).split())
        assert ended.status == 1

    def test_modules_that_loop(self):
        fake = FakePykd.of_machine(sample_machine())
        fake.modules = fake.modules * 50
        assert "Tag Pipo holds" in check_screen(type_command("poolleak", fake))

    @pytest.mark.parametrize("tag", [b'<&>"', b"a;q ", b"\x1b[2J", b"    ", b"</b>"])
    def test_a_hostile_tag(self, hurt, tag):
        for number in range(hurt.truth.processors):
            table = hurt.addresses[f"table:{number}"]
            data = hurt.read_virtual(table, hurt.table_bytes)
            hurt.write_virtual(table, data.replace(b"Pipo", tag))
        for command in ("poolleak", "poolleak used", "poolleak used --view poolused"):
            ended = type_command(command, FakePykd.of_machine(hurt))
            check_screen(ended)
            own = [command for command in commands(ended) if command.startswith("!py poolleak find")]
            assert not any(set(command) & set('<>&";\x1b') for command in own)
            assert all(";" not in command for command in commands(ended))

    def test_hostile_modules(self, hurt):
        fake = FakePykd.of_machine(hurt)
        names = ['<&>";q.sys', "</link>.sys", "a\nb\x1b[2J.sys", "\u202e.sys", "x" * 250 + ".sys"]
        for number, name in enumerate(names):
            fake.modules.append(
                FakeModule(fake, name, 0xFFFFF880_00000000 + number * 0x100000, 0x10000, path=f"\\{name}")
            )
        pippo = next(module for module in fake.modules if module.name() == "pippo")
        pippo._name, pippo._image = '<&>";q', '\\??\\C:\\<&>";q.sys'
        for command in ("poolleak", "poolleak find Pipo"):
            ended = type_command(command, fake)
            text = check_screen(ended)
            assert '<&>";q.sys' in text.replace("\n", "")
            assert all(";" not in command and '"' not in command for command in commands(ended))
            assert max(map(len, text.splitlines())) <= 100
