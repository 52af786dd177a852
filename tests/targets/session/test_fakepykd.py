"""The fake pykd behaves as the real one was measured to: otherwise its tests prove nothing."""

from __future__ import annotations

import sys
import textwrap

import pytest

import pykdext
from tests.helpers.fakepykd import (
    DbgException,
    FakeModule,
    FakePykd,
    FakeType,
    MemoryException,
    SymbolException,
    TypeException,
)
from tests.helpers.fakepykd_console import (
    DEBUGGER,
    FakeConsole,
    find_broken_markup,
    run_py,
    split_arguments,
    visible_text,
)

BASE = 0xFFFFF800_00000000
DATA = bytes(range(256)) * 32


@pytest.fixture
def fake():
    def read(address, size):
        start = address - BASE
        if start < 0 or start + size > len(DATA):
            raise ValueError(hex(address))
        return DATA[start : start + size]

    return FakePykd(read)


class TestMemory:
    def test_lists_of_int(self, fake):
        assert fake.loadBytes(BASE, 4) == [0, 1, 2, 3]
        assert fake.loadWords(BASE, 2) == [0x100, 0x302]
        assert fake.loadDWords(BASE, 1) == [0x03020100]
        assert fake.loadQWords(BASE + 8, 1) == fake.loadPtrs(BASE + 8, 1) == [0x0F0E0D0C0B0A0908]
        assert fake.ptrByte(BASE + 3) == 3
        assert fake.ptrPtr(BASE) == fake.ptrQWord(BASE)
        assert isinstance(fake.loadWChars(BASE, 4), str)
        with pytest.raises(UnicodeDecodeError):
            fake.loadChars(BASE, 256)

    @pytest.mark.parametrize(("offset", "count"), [(-1, 4), (len(DATA) - 2, 4), (0, 0), (1 << 40, 1)])
    def test_all_or_nothing(self, fake, offset, count):
        with pytest.raises(MemoryException, match=f"0x{BASE + offset:x}"):
            fake.loadBytes(BASE + offset, count)
        assert not fake.reads

    @pytest.mark.parametrize("address", [-1, 1 << 64])
    def test_addresses_have_64_bits(self, fake, address):
        with pytest.raises(OverflowError):
            fake.loadBytes(address, 1)

    def test_exceptions(self):
        assert issubclass(MemoryException, DbgException)
        assert issubclass(TypeException, SymbolException)
        assert issubclass(SymbolException, DbgException)
        assert not issubclass(DbgException, (ValueError, RuntimeError))

    def test_accounts(self, fake):
        fake.loadBytes(BASE, 100)
        fake.loadWChars(BASE + 50, 50)
        fake.loadBytes(BASE + 40, 20)
        assert fake.bytes_read == 220
        assert fake.repeated_bytes() == 70
        assert fake.reads_of(BASE + 55, 10) == 25
        assert fake.calls == {"loadBytes": 2, "loadWChars": 1}

    def test_pages_that_were_hidden(self, fake):
        fake.hide(BASE + 0x1000, 1)
        assert fake.loadBytes(BASE + 0xFFF, 1) == [255]
        with pytest.raises(MemoryException):
            fake.loadBytes(BASE + 0xFFF, 2)

    def test_interruptions(self, fake):
        fake.break_at_call = 2
        fake.loadBytes(BASE, 1)
        with pytest.raises(SystemExit, match=r"CTRL\+BREAK"):
            fake.ptrSize()
        fake.run_at_call = 4
        fake.loadBytes(BASE, 1)
        with pytest.raises(DbgException) as caught:
            fake.loadBytes(BASE, 1)
        assert type(caught.value) is DbgException


class TestEngine:
    def test_modules(self, fake):
        fake.modules = [
            FakeModule(fake, "ntoskrnl.exe", BASE, 0x1000),
            FakeModule(fake, "my.driver.sys", BASE + 0x1000, 9),
        ]
        fake.symbols = {"X": BASE + 8}
        assert [module.name() for module in fake.getModulesList()] == ["nt", "my_driver"]
        assert fake.module("nt").image() == "ntkrnlmp.exe"
        assert fake.module(BASE + 0x1008).end() == BASE + 0x1009
        assert fake.module("nt").rva("X") == 8
        for unknown in ("ntoskrnl", "my.driver.sys", BASE + 0x1009):
            with pytest.raises(DbgException):
                fake.module(unknown)

    def test_symbols(self, fake):
        fake.types = {"_T": FakeType(16, {"a": (8, 4)})}
        assert [(name, field.size()) for name, field in fake.typeInfo("nt!_T").fields()] == [("a", 4)]
        with pytest.raises(SymbolException):
            fake.getOffset("nt!X")
        with pytest.raises(SymbolException):
            fake.typeInfo("nt!_U")
        with pytest.raises(TypeException):
            fake.typeInfo("nt!_T").fieldOffset("b")

    def test_commands(self, fake):
        fake.answers = {".reload": None, "!vm": DbgException("no export vm found")}
        assert fake.dbgCommand(".reload") is None
        assert "bitmap dump" in fake.dbgCommand("||.")
        assert fake.dbgCommand("||.", False) is None
        assert "bitmap dump" in visible_text(fake.console.pieces)
        for refused in ("!vm", "!py poolleak", "nonsense"):
            with pytest.raises(DbgException):
                fake.dbgCommand(refused)

    def test_no_session(self):
        fake = FakePykd(None, system="none")
        assert fake.isWindbgExt()
        for question in (fake.isKernelDebugging, fake.isDumpAnalyzing):
            with pytest.raises(DbgException):
                question()


class TestConsole:
    def test_has_few_attributes(self):
        assert {name for name in dir(FakeConsole()) if not name.startswith("_")} == {
            *("write", "writedml", "flush", "isatty", "closed", "encoding"),
            "pieces",
        }
        assert not FakeConsole().isatty()

    def test_cuts_what_is_long(self, fake):
        fake.console.write("a" * 20_000)
        fake.dprintln("b" * 20_000, True)
        assert [len(text) for text, _ in fake.console.pieces] == [16_383, 16_383]

    def test_outside_the_debugger_markup_shows_raw(self, capsys):
        FakePykd(None, windbg=False).dprintln("<b>x</b>", True)
        assert capsys.readouterr().out == "<b>x</b>\n"

    def test_markup(self):
        good = '<link cmd="lmvm pippo">a &lt;b&gt; &amp; <b>c</b></link> <col fg="emphfg">d</col>'
        pieces = [("1 < 2\n", False), (good, True)]
        assert visible_text(pieces) == "1 < 2\na <b> & c d"
        assert find_broken_markup(pieces) == []

    @pytest.mark.parametrize("text", ["<&>", "a & b", "1 < 2", "<b>x", "x</b>", '<link cmd="a"b">x</link>', "<p>x</p>"])
    def test_broken_markup(self, text):
        assert find_broken_markup([(text, True)]) == [text]


class TestCommandLine:
    @pytest.mark.parametrize(
        ("line", "arguments"),
        [
            ("", []),
            ("used  --top\t5 ", ["used", "--top", "5"]),
            (r'diff "C:\my logs\a.txt" C:\b.txt', ["diff", r"C:\my logs\a.txt", r"C:\b.txt"]),
            ('find "Irp "', ["find", "Irp "]),
            ('used "" x', ["used", "x"]),
            ("find 'a b'", ["find", "'a", "b'"]),
            ("used; .echo x", ["used"]),
            ('find "a;b"', ["find", "a;b"]),
            ('--tag="a b"', ["--tag=a b"]),
        ],
    )
    def test_arguments(self, line, arguments):
        assert split_arguments(line) == arguments

    @staticmethod
    def run(tmp_path, fake, source, arguments=""):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source), encoding="utf-8")
        return run_py(script, arguments, fake), script

    def test_what_a_script_sees(self, tmp_path, fake):
        before = (list(sys.argv), sys.executable, list(sys.path), sys.stdout, sys.getrecursionlimit())
        ended, script = self.run(
            tmp_path,
            fake,
            """
            import sys
            import pykd
            assert __name__ == "__main__" and "__file__" not in globals()
            for value in (sys.argv, sys.executable, sys.path[0], sys.getrecursionlimit(), sys.stdout.isatty()):
                print(repr(value))
            pykd.dprintln("<b>\u20ac</b>", True)
            """,
            'a "b c"; d',
        )
        assert not ended.error
        assert ended.status is None
        assert ended.text == (f"{[str(script), 'a', 'b c']!r}\n{DEBUGGER!r}\n{str(tmp_path)!r}\n500\nFalse\n\u20ac\n")
        assert before == (list(sys.argv), sys.executable, list(sys.path), sys.stdout, sys.getrecursionlimit())

    def test_how_a_script_ends(self, tmp_path, fake):
        ended, _ = self.run(tmp_path, fake, "import sys; sys.exit('not shown')")
        assert (ended.status, ended.text) == ("not shown", "")
        ended, _ = self.run(tmp_path, fake, "1 / 0")
        assert "ZeroDivisionError" in ended.error
        assert "ZeroDivisionError" in ended.text
        ended, _ = self.run(tmp_path, fake, "def f(): f()\nf()")
        assert "RecursionError" in ended.error

    def test_ctrl_break_runs_finally(self, tmp_path, fake):
        fake.break_at_call = 2
        ended, _ = self.run(
            tmp_path,
            fake,
            """
            import pykd
            try:
                while True:
                    pykd.ptrSize()
            finally:
                print("so far")
            """,
        )
        assert (ended.status, ended.text) == ("CTRL+BREAK", "so far\n")

    def test_each_command_is_a_new_interpreter(self, tmp_path, fake):
        ended, _ = self.run(
            tmp_path,
            fake,
            """
            import pykdext
            print(getattr(pykdext, "left_behind", None))
            pykdext.left_behind = 2
            try:
                import numpy
            except ImportError as error:
                print(error)
            """,
        )
        first, second = ended.text.splitlines()
        assert first == "None"
        assert "sub-interpreter" in second
        assert not hasattr(pykdext, "left_behind")
        assert sys.modules["pykdext"] is pykdext

    def test_modules_have_a_file(self, tmp_path, fake, monkeypatch):
        (tmp_path / "measured.py").write_text("import sys\nprint(__name__, __file__, sys.argv[1:])", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        ended = run_py("measured", "x", fake, as_module=True)
        assert ended.text == f"__main__ {tmp_path / 'measured.py'} ['x']\n"
