"""The debugger's session as a target, over a fake pykd: the contract, what it costs, and how it fails."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import sys

import pytest

from dumps.forge import BUILDS, SCENARIOS, forge
from pykdext.attribution.places.index import ImageIndex
from pykdext.errors import MemoryReadError, NotKernelTargetError, SymbolNotFoundError, TargetError
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.model import BugCheck, FieldLayout, Machine, PoolTag, TypeLayout
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.session import memory as sessionmemory
from pykdext.targets.session.presence import MAX_QUESTIONS
from pykdext.targets.session.session import open_session
from pykdext.targets.session.words import (
    SystemWords,
    parse_debugger_data_address,
    parse_session,
    parse_system,
    parse_unloaded,
)
from tests.engine.answers import parse_modules
from tests.engine.winengine import EngineUnavailable, open_engine, windows_path
from tests.helpers.fakepykd import DbgException, FakeModule, FakePykd, FakeType
from tests.targets import test_target_contract as contract

PAGE = 0x1000
BASE = 0xFFFFF800_00000000
REPORTS = [
    *((scenario, 19041, "x64") for scenario in SCENARIOS),
    *(("pipo", build, "x64") for build in BUILDS if build != 19041),
    *(("pipo", build, arch) for arch, build in contract.BUILDS.items() if arch != "x64"),
]
LONE_SURROGATES = bytes(range(256)) * 15 + b"\x00\xd8\x00\xdc\x00\xdc\x00\xd8" * 32

machine, pages, regions = contract.machine, contract.pages, contract.regions


@pytest.fixture(scope="module", params=contract.BUILDS)
def case(request):
    """The architecture and the kind of target, as the contract has it."""
    return request.param, "session"


@pytest.fixture(scope="module")
def target(machine):
    with pytest.MonkeyPatch.context() as monkeypatch:
        FakePykd.of_machine(machine).install(monkeypatch)
        return open_session()


@pytest.fixture(scope="module")
def server():
    """One machine where the architecture does not matter."""
    return contract.forged("x64")


class TestSessionContract(contract.TestTargetContract):
    """The same memory gives the same answers and the same errors as in a dump."""


def page_bytes(number):
    """Contents of a page that no other page has."""
    return (number.to_bytes(4, "little") + LONE_SURROGATES)[:PAGE]


class Memory:
    """``page_count`` pages from BASE on."""

    def __init__(self, page_count, base=BASE):
        self.base, self.data = base, b"".join(map(page_bytes, range(page_count)))

    def read(self, address, size):
        start = address - self.base
        if start < 0 or start + size > len(self.data):
            raise ValueError(hex(address))
        return self.data[start : start + size]


@pytest.fixture
def open_over(monkeypatch):
    """A function: the session over so many pages, with some of them missing, and its pykd, all counts at 0.

    It is a local kernel, where missing pages are found by reading, unless ``system`` says otherwise.
    """

    def open_(page_count, missing=(), system="local", **options):
        fake = FakePykd(Memory(page_count).read, system=system, **options).install(monkeypatch)
        for number in missing:
            fake.hide(BASE + number * PAGE, PAGE)
        session = open_session()
        fake.calls.clear()
        fake.call_count = 0
        return session, fake

    return open_


def read_all(session, page_count):
    """What ``read_present`` gives, as {page number: bytes}."""
    parts = session.read_present(BASE, page_count * PAGE)
    return {
        (start + offset - BASE) // PAGE: data[offset : offset + PAGE]
        for start, data in parts
        for offset in range(0, len(data), PAGE)
    }


def numbered_pages(numbers):
    return {number: page_bytes(number) for number in numbers}


class TestReads:
    def test_every_pattern_of_bits_arrives_as_it_is(self, open_over):
        session, fake = open_over(3)
        assert session.read_virtual(BASE, 3 * PAGE) == Memory(3).data
        assert session.read_virtual(BASE + 1, 3) == Memory(3).data[1:4]
        assert fake.calls == {"loadWChars": 1}

    def test_a_small_read_asks_for_one_page_once(self, open_over):
        session, fake = open_over(64)
        for offset in range(0, PAGE - 8, 8):
            assert session.read_virtual(BASE + offset, 8) == Memory(1).data[offset : offset + 8]
        assert fake.reads == [(BASE, PAGE)]

    def test_a_large_read_comes_in_pieces_of_64_kib(self, open_over):
        session, fake = open_over(40)
        assert session.read_virtual(BASE + 8, 39 * PAGE) == Memory(40).data[8 : 39 * PAGE + 8]
        assert [size for _, size in fake.reads] == [0x10000, 0x10000, 0x8000]

    def test_over_a_cable_pieces_are_pages(self, open_over):
        session, fake = open_over(4, system="remote")
        session.read_virtual(BASE, 4 * PAGE)
        assert [size for _, size in fake.reads] == [PAGE] * 4

    def test_known_pages_are_not_asked_for_again(self, open_over):
        session, fake = open_over(64)
        session.read_virtual(BASE + 5 * PAGE, 8)
        session.read_virtual(BASE + 20 * PAGE, 3 * PAGE)
        assert read_all(session, 64) == numbered_pages(range(64))
        assert read_all(session, 64) == numbered_pages(range(64))
        assert fake.bytes_read == 64 * PAGE
        assert fake.repeated_bytes() == 0

    def test_failing_pages_are_not_asked_for_again(self, open_over):
        session, fake = open_over(64, missing=range(10, 50))
        before = read_all(session, 64)
        asked = fake.call_count
        assert read_all(session, 64) == before
        for number in (10, 31, 49):
            with pytest.raises(MemoryReadError) as caught:
                session.read_virtual(BASE + number * PAGE, 8)
            assert (caught.value.address, caught.value.size) == (BASE + number * PAGE, 8)
        assert fake.call_count == asked

    def test_what_is_kept_is_bounded(self, open_over, monkeypatch):
        monkeypatch.setattr(sessionmemory, "MAX_KEPT_PAGES", 16)
        monkeypatch.setattr(sessionmemory, "MAX_KEPT_FAILURES", 4)
        session, fake = open_over(48, missing=range(40, 48))
        for _ in range(2):
            assert read_all(session, 48) == numbered_pages(range(40))
        assert fake.repeated_bytes() > 0
        kept = fake.call_count
        session.read_virtual(BASE + 39 * PAGE, 8)
        assert fake.call_count == kept
        with pytest.raises(MemoryReadError):
            session.read_virtual(BASE + 40 * PAGE, 8)
        assert fake.call_count == kept + 1

    def test_what_was_used_last_is_kept_longest(self, open_over, monkeypatch):
        monkeypatch.setattr(sessionmemory, "MAX_KEPT_PAGES", 16)
        session, fake = open_over(48)
        session.read_virtual(BASE, 8)
        for number in range(1, 48):
            session.read_virtual(BASE + number * PAGE, 8)
            session.read_virtual(BASE, 8)
        assert fake.reads_of(BASE, PAGE) == PAGE

    def test_an_answer_that_is_too_short_is_none(self, open_over):
        session, fake = open_over(4)
        exact = fake.loadWChars
        fake.loadWChars = lambda address, count: exact(address, count)[: count if count == PAGE // 2 else -1]
        assert read_all(session, 4) == numbered_pages(range(4))

    @pytest.mark.parametrize(
        ("missing", "most_calls"),
        [
            ([], 32),
            ([0], 32 + 10),
            ([255], 32 + 10),
            ([511], 32 + 10),
            (range(100, 200), 32 + 100 + 10),
            (range(512), 512 + 5),
            (range(0, 512, 16), 32 * 9),
            (range(1, 512, 2), 512 * 3 // 2 + 5),
            (range(3, 512, 40), 32 + 13 * 9),
        ],
        ids=["none", "first", "middle", "last", "run", "all", "one a piece", "every second", "spread"],
    )
    def test_holes_in_an_image_of_2_mib_cost_few_calls(self, open_over, missing, most_calls):
        session, fake = open_over(512, missing)
        assert read_all(session, 512) == numbered_pages(set(range(512)) - set(missing))
        assert fake.calls["loadWChars"] <= most_calls
        assert fake.repeated_bytes() == 0
        assert set(fake.calls) <= {"loadWChars"}
        print(f"{len(missing)} of 512 pages missing: {fake.call_count} calls")

    def test_a_hole_ends_a_read(self, open_over):
        session, fake = open_over(512, missing=range(20, 512))
        with pytest.raises(MemoryReadError) as caught:
            session.read_virtual(BASE + 8, 500 * PAGE)
        assert (caught.value.address, caught.value.size) == (BASE + 8, 500 * PAGE)
        assert fake.call_count < 10

    def test_the_ends_of_the_address_space(self, monkeypatch):
        last = (1 << 64) - PAGE
        FakePykd(Memory(1, last).read).install(monkeypatch)
        session = open_session()
        assert session.read_virtual(last + PAGE - 8, 8) == page_bytes(0)[-8:]
        assert list(session.read_present(last + 16, 1 << 20)) == [(last + 16, page_bytes(0)[16:])]
        for address, size in ((last + PAGE - 8, 9), (-8, 8), (1 << 64, 1), (0, 1 << 40)):
            with pytest.raises(MemoryReadError):
                session.read_virtual(address, size)

    def test_addresses_of_32_bit_kernels(self, monkeypatch):
        base = 0x81200000
        fake = FakePykd(Memory(4, base).read, machine="x86", build=2600, processors=1).install(monkeypatch)
        fake.modules = [FakeModule(fake, "ntoskrnl.exe", base, 4 * PAGE)]
        fake.symbols = {"PoolTrackTable": base + 0x123}
        fake.unloaded = [("old.sys", 0xF8000000, 0xF8004000)]
        session = open_session()
        assert (session.machine, session.pointer_size) == (Machine.X86, 4)
        assert session.facts.processors == 1
        assert session.read_virtual(base + 8, PAGE) == Memory(4).data[8 : PAGE + 8]
        assert list(session.read_present(base, 4 * PAGE)) == [(base, Memory(4).data)]
        assert [(module.name, module.base) for module in session.modules()] == [
            ("ntoskrnl.exe", base),
            ("old.sys", 0xF8000000),
        ]
        assert session.symbol("PoolTrackTable") == base + 0x123
        assert fake.reads == [(0xFFFFFFFF_81200000, 2 * PAGE), (0xFFFFFFFF_81202000, 2 * PAGE)]


class TestSurveys:
    """In a dump the engine tells the user of each page that a read does not find: none is read that is not there."""

    @pytest.mark.parametrize(
        "missing",
        [[], [0], [511], range(100, 200), range(512), range(0, 512, 16), range(1, 512, 2)],
        ids=["none", "first", "last", "run", "all", "one a cluster", "every second"],
    )
    def test_missing_pages_are_asked_for_and_never_read(self, open_over, missing):
        session, fake = open_over(512, missing, system="bitmap")
        present = set(range(512)) - set(missing)
        for _ in range(2):
            assert read_all(session, 512) == numbered_pages(present)
        assert fake.bytes_read == len(present) * PAGE
        assert (fake.repeated_bytes(), fake.failures, fake.console.pieces) == (0, [], [])
        clusters = {number // 16 for number in missing}
        assert fake.calls["dbgCommand"] == 1 + -(-len(clusters) * 16 // MAX_QUESTIONS)

    def test_a_cluster_is_asked_for_once(self, open_over):
        session, fake = open_over(512, missing=[3], system="bitmap")
        for number in (0, 1, 2, 4, 15):
            assert session.read_virtual(BASE + number * PAGE, 8) == page_bytes(number)[:8]
        with pytest.raises(MemoryReadError):
            session.read_virtual(BASE + 2 * PAGE, 3 * PAGE)
        assert fake.calls == {"dbgCommand": 2, "loadWChars": 5}
        assert fake.failures == []

    def test_long_ranges_are_asked_for_in_commands_of_bounded_length(self, open_over):
        session, fake = open_over(4096, system="bitmap")
        read_all(session, 4096)
        assert fake.calls["dbgCommand"] == 2
        assert max(map(len, fake.commands)) < 8_000

    @pytest.mark.parametrize("answer", [None, "Couldn't resolve error at '@@masm'", DbgException("the debuggee runs")])
    def test_an_engine_without_the_operator_is_asked_once(self, open_over, answer):
        session, fake = open_over(64, missing=[9, 40], system="bitmap")
        fake.validity_answer = answer
        assert read_all(session, 64) == numbered_pages(set(range(64)) - {9, 40})
        assert fake.calls["dbgCommand"] == 1

    def test_addresses_of_32_bit_kernels(self, monkeypatch):
        base = 0x81200000
        fake = FakePykd(Memory(2, base).read, machine="x86", build=2600, processors=1).install(monkeypatch)
        session = open_session()
        assert list(session.read_present(base, 16 * PAGE)) == [(base, Memory(2).data)]
        assert "$vvalid(0xffffffff81200000,0x10000)" in fake.commands[-2]
        assert fake.failures == []

    @pytest.mark.parametrize("system", ["remote", "local"])
    def test_live_kernels_are_not_asked(self, open_over, system):
        session, fake = open_over(64, system=system)
        read_all(session, 64)
        assert fake.calls["dbgCommand"] == 0


class TestInterruptions:
    def test_break_ends_every_call_of_a_scan(self, open_over):
        whole, fake = open_over(256, missing=range(100, 120))
        expected = read_all(whole, 256)
        calls = fake.call_count
        assert calls > 30
        for call in range(1, calls + 1):
            session, fake = open_over(256, missing=range(100, 120))
            fake.break_at_call = call
            with pytest.raises(SystemExit, match=r"CTRL\+BREAK"):
                read_all(session, 256)
            assert fake.call_count == call
            assert read_all(session, 256) == expected
            assert fake.repeated_bytes() == 0

    def test_break_ends_opening_and_every_question(self, monkeypatch, server):
        def ask_everything():
            session = open_session()
            session.modules()
            session.symbol("PoolTrackTable")
            with pytest.raises(SymbolNotFoundError):
                session.field_layout("_POOL_HEADER")

        fake = FakePykd.of_machine(server).install(monkeypatch)
        ask_everything()
        calls = fake.call_count
        assert calls >= 10
        for call in range(1, calls + 1):
            FakePykd.of_machine(server).install(monkeypatch).break_at_call = call
            with pytest.raises(SystemExit, match=r"CTRL\+BREAK"):
                ask_everything()

    def test_a_target_that_runs_gives_what_was_read_and_says_so(self, open_over):
        session, fake = open_over(64)
        fake.run_at_call = 3
        assert read_all(session, 64) == numbered_pages(range(32))
        with pytest.raises(MemoryReadError, match="the debugger refuses") as caught:
            session.read_virtual(BASE + 40 * PAGE, 8)
        assert caught.value.size == 8
        (warning,) = session.facts.warnings
        assert "the target runs" in warning
        assert "\n" not in warning
        assert session.read_virtual(BASE, 32 * PAGE) == Memory(32).data

    def test_after_it_stopped_again_the_rest_is_read(self, open_over):
        session, fake = open_over(64)
        fake.run_at_call = 2
        read_all(session, 64)
        fake.run_at_call = None
        assert read_all(session, 64) == numbered_pages(range(64))
        assert fake.repeated_bytes() == 0

    def test_a_scan_of_the_tables_that_is_cut_off_is_partial(self, monkeypatch, server):
        def read(run_at_call=None):
            fake = FakePykd.of_machine(server).install(monkeypatch)
            session = open_session()
            fake.run_at_call = run_at_call and fake.call_count + run_at_call
            fake.call_count_at_start = fake.call_count
            return fake, read_pool_snapshot(open_kernel(session))

        fake, whole = read()
        complete = []
        for call in range(1, fake.call_count - fake.call_count_at_start + 1):
            with contextlib.suppress(TargetError):
                _, snapshot = read(call)
                said = any("the target runs" in warning for warning in snapshot.warnings)
                complete.append(snapshot.coverage.is_complete)
                assert said or complete[-1]
                assert set(snapshot.tags) != set(whole.tags) or complete[-1]
        assert complete.count(False) >= 1


class TestGuards:
    def test_without_pykd(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pykd", None)
        self.refused(TargetError, "no usable pykd", "!py -3.9 poolleak")

    def test_with_a_pykd_that_does_not_load(self, monkeypatch):
        real_import = builtins.__import__

        def import_(name, *arguments):
            if name == "pykd":
                raise ImportError("DLL load failed while importing pykd")
            return real_import(name, *arguments)

        monkeypatch.delitem(sys.modules, "pykd", raising=False)
        monkeypatch.setattr(builtins, "__import__", import_)
        self.refused(TargetError, "DLL load failed", "!py -3.9 poolleak")

    def test_without_a_debugger(self, monkeypatch):
        FakePykd(None, system="none", windbg=False).install(monkeypatch)
        self.refused(TargetError, "no debugger around this Python", "WinDbg")

    def test_without_a_session(self, monkeypatch):
        FakePykd(None, system="none").install(monkeypatch)
        self.refused(TargetError, "no session", "open a dump")

    @pytest.mark.parametrize("system", ["process", "process dump"])
    def test_in_user_mode(self, monkeypatch, system):
        FakePykd(None, system=system).install(monkeypatch)
        self.refused(NotKernelTargetError, "user-mode process", "kernel dump")

    def test_a_session_that_a_script_opened_without_windbg(self, monkeypatch):
        FakePykd(None, windbg=False).install(monkeypatch)
        assert open_session().facts.kind == "dump in the debugger"

    @staticmethod
    def refused(kind, *words):
        with pytest.raises(TargetError) as caught:
            open_session()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)


class TestFacts:
    @pytest.mark.parametrize(
        ("system", "kind"),
        [
            ("bitmap", "dump in the debugger"),
            ("triage", "dump in the debugger"),
            ("remote", "live kernel session"),
            ("exdi", "live kernel session"),
            ("local", "local kernel session"),
            ("strange", "kernel session of an unknown kind"),
        ],
    )
    def test_kinds_of_session(self, monkeypatch, server, system, kind):
        fake = FakePykd.of_machine(server, system=system).install(monkeypatch)
        facts, truth = open_session().facts, server.truth
        is_dump = kind.startswith("dump")
        assert facts.kind == kind
        assert (facts.machine, facts.build, facts.processors) == (Machine.X64, truth.build, truth.processors)
        assert facts.bugcheck == (BugCheck(truth.bugcheck[0], truth.bugcheck[1:]) if is_dump else None)
        assert facts.taken_at == truth.taken_at
        assert facts.uptime_seconds == truth.uptime_seconds
        assert facts.warnings == ()
        assert fake.calls["isLocalKernelDebuggerEnabled"] == 0

    def test_a_small_memory_dump_is_said_to_hold_no_tables(self, monkeypatch, server):
        FakePykd.of_machine(server, system="triage").install(monkeypatch)
        session = open_session()
        assert "holds no pool tag tables" in session.facts.no_tag_tables
        with pytest.raises(TargetError, match="holds no pool tag tables"):
            read_pool_snapshot(open_kernel(session))

    def test_a_path_with_the_words_of_other_sessions(self, monkeypatch, server):
        fake = FakePykd.of_machine(server).install(monkeypatch)
        fake.answers["||."] = r".  0 64-bit Kernel bitmap dump: C:\Local KD\Remote KD.dmp"
        assert open_session().facts.kind == "dump in the debugger"

    @pytest.mark.parametrize("answer", [None, "", "?", DbgException("the debuggee runs")], ids=repr)
    def test_a_debugger_without_words(self, monkeypatch, server, answer):
        fake = FakePykd.of_machine(server).install(monkeypatch)
        fake.answers.update({"vertarget": answer, "||.": answer, "lm": answer})
        session = open_session()
        facts = session.facts
        assert (facts.machine, facts.build, facts.processors) == (Machine.X64, server.truth.build, None)
        assert "kind of processor" in facts.warnings[0]
        assert len(session.modules()) == len(server.truth.modules)

    def test_pykd_that_does_not_know(self, monkeypatch, server):
        fake = FakePykd.of_machine(server).install(monkeypatch)

        def refuse():
            raise DbgException("not implemented")

        for name in ("bugCheckData", "currentTime", "systemUptime", "getSystemVersion"):
            setattr(fake, name, refuse)
        facts = open_session().facts
        assert (facts.bugcheck, facts.taken_at, facts.uptime_seconds) == (None, None, None)
        assert facts.build == server.truth.build

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("Windows 10 Kernel Version 19041 MP (4 procs) Free x64", (19041, 4, Machine.X64)),
            ("Windows 7 Kernel Version 7601 (Service Pack 1) MP (12 procs) Free x64", (7601, 12, Machine.X64)),
            ("Windows XP Kernel Version 2600 (Service Pack 3) UP Free x86 compatible", (2600, 1, Machine.X86)),
            (
                "Windows Server 2008/Windows Vista Kernel Version 6002 (Service Pack 2) MP (2 procs) Checked x64",
                (6002, 2, Machine.X64),
            ),
            ("Windows 10 Kernel Version 26100 MP (4 procs) Free ARM 64-bit (AArch64)", (26100, 4, Machine.ARM64)),
            ("Windows Server 2003 Kernel Version 3790 MP (2 procs) Free IA64", (3790, 2, None)),
            ("Generic Unix Version 0 UP Free ARM 64-bit (AArch64)", (None, None, None)),
            ("Windows 99", (None, None, None)),
        ],
    )
    def test_words_of_vertarget(self, line, words):
        assert parse_system(f"noise\r\n{line}\r\nProduct: Server\r\n") == SystemWords(*words)


class TestModules:
    @staticmethod
    def open_with(monkeypatch, modules, **options):
        fake = FakePykd(Memory(1).read, **options).install(monkeypatch)
        fake.modules = modules if isinstance(modules, Exception) else modules(fake)
        return open_session(), fake

    def test_names_are_those_of_files(self, monkeypatch):
        session, _ = self.open_with(
            monkeypatch,
            lambda fake: [
                FakeModule(fake, "pippo.sys", BASE, PAGE, 7, 8, path=r"\SystemRoot\System32\drivers\pippo.sys"),
                FakeModule(fake, "hal.dll", BASE + PAGE, PAGE),
                FakeModule(fake, "my-driver.v2.sys", BASE + 2 * PAGE, PAGE),
                FakeModule(fake, "ntoskrnl.exe", BASE + 3 * PAGE, PAGE),
                FakeModule(fake, "ntdll.dll", 0x7FFE_00000000, PAGE),
            ],
        )
        found = session.modules()
        assert [module.name for module in found] == ["ntoskrnl.exe", "pippo.sys", "hal.dll", "my-driver.v2.sys"]
        assert dataclasses.astuple(found[1]) == (
            "pippo.sys",
            BASE,
            PAGE,
            r"\SystemRoot\System32\drivers\pippo.sys",
            7,
            8,
            False,
        )

    def test_unloaded_ones_in_the_list_of_pykd(self, monkeypatch):
        session, fake = self.open_with(
            monkeypatch,
            lambda fake: [
                FakeModule(fake, "old.sys", BASE, PAGE, unloaded=True),
                FakeModule(fake, "ntoskrnl.exe", BASE + PAGE, PAGE),
            ],
        )
        fake.unloaded = [("old.sys", BASE, BASE + PAGE)]
        assert [(module.name, module.unloaded) for module in session.modules()] == [
            ("ntoskrnl.exe", False),
            ("old.sys", True),
        ]

    def test_a_list_that_loops(self, monkeypatch):
        session, fake = self.open_with(
            monkeypatch,
            lambda fake: [FakeModule(fake, f"d{n}.sys", BASE + n * PAGE, PAGE) for n in range(3)] * 100_000,
        )
        assert [module.name for module in session.modules()] == ["d0.sys", "d1.sys", "d2.sys"]
        assert "more than once" in session.facts.warnings[0]
        assert "300,000" in session.facts.warnings[1]
        session.modules()
        assert fake.calls["getModulesList"] == 1

    def test_a_list_without_end(self, monkeypatch):
        session, _ = self.open_with(
            monkeypatch, lambda fake: [FakeModule(fake, f"d{n}.sys", BASE + n * PAGE, PAGE) for n in range(5000)]
        )
        assert len(session.modules()) == 4096
        assert session.facts.warnings == ("the debugger lists 5,000 modules: the first 4,096 were taken",)

    def test_a_list_that_cannot_be_read(self, monkeypatch):
        session, fake = self.open_with(monkeypatch, DbgException("IDebugSymbol::GetModuleByIndex failed\nwhy"))
        assert session.modules() == ()
        (warning,) = session.facts.warnings
        assert "GetModuleByIndex" in warning
        assert "\n" not in warning
        session.modules()
        assert fake.calls["getModulesList"] == 1

    def test_entries_that_cannot_be_read(self, monkeypatch):
        class Damaged(FakeModule):
            def image(self):
                raise DbgException("IDebugSymbol::GetModuleNameString failed")

        session, _ = self.open_with(
            monkeypatch,
            lambda fake: [
                FakeModule(fake, "ntoskrnl.exe", BASE, 0xFFFFFFFF),
                Damaged(fake, "bad.sys", BASE + PAGE, PAGE),
                FakeModule(fake, "empty.sys", BASE + 2 * PAGE, 0),
            ],
        )
        assert [(module.name, module.size) for module in session.modules()] == [
            ("ntoskrnl.exe", PAGE),
            ("empty.sys", PAGE),
        ]
        assert session.facts.warnings == ("modules that the debugger cannot describe: 1",)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Unloaded modules:",
            "Unloaded modules:\nfffff800`00002000 fffff800`00001000   backwards.sys",
            "Unloaded modules:\nfffff800`00000000 ffffffff`00001000   huge.sys",
            "fffff800`00001000 fffff800`00002000   loaded.sys",
            "Unloaded modules:\n" + "x" * 100_000,
        ],
    )
    def test_words_of_lm_without_unloaded_drivers(self, text):
        assert parse_unloaded(text) == ()

    def test_words_of_lm(self):
        lines = [f"fffff800`{n:04x}1000 fffff800`{n:04x}3000   driver {n}.sys" for n in range(80)]
        found = parse_unloaded("Unloaded modules:\r\n" + "\r\n".join(lines))
        assert len(found) == 50
        assert (found[7].name, found[7].base, found[7].size) == ("driver 7.sys", 0xFFFFF800_00071000, 0x2000)


class TestSymbols:
    def test_the_engine_is_asked_once(self, open_over):
        session, fake = open_over(1)
        fake.symbols = {"PoolTrackTable": BASE + 8}
        for _ in range(3):
            assert session.symbol("PoolTrackTable") == BASE + 8
            with pytest.raises(SymbolNotFoundError, match=r"\.reload /f nt"):
                session.symbol("MiState")
        assert fake.calls == {"getOffset": 2, "dbgCommand": 1}

    def test_without_symbols_a_dump_tells_where_its_debugger_data_is(self, monkeypatch, server):
        fake = FakePykd.of_machine(server, symbols=False).install(monkeypatch)
        session = open_session()
        for name in ("PoolTrackTable", "PsLoadedModuleList"):
            assert session.symbol(name) == server.addresses[name]
        with pytest.raises(SymbolNotFoundError):
            session.symbol("ExPoolTagTables")
        assert fake.commands.count(".dumpdebug") == 1

    @pytest.mark.parametrize("system", ["remote", "local"])
    def test_without_symbols_a_live_kernel_tells_nothing(self, monkeypatch, server, system):
        FakePykd.of_machine(server, system=system, symbols=False).install(monkeypatch)
        with pytest.raises(SymbolNotFoundError, match="PoolTrackTable"):
            open_session().symbol("PoolTrackTable")

    def test_the_engine_knows_better_than_the_debugger_data(self, monkeypatch, server):
        fake = FakePykd.of_machine(server, symbols=False).install(monkeypatch)
        fake.symbols = {"PoolTrackTable": BASE}
        assert open_session().symbol("PoolTrackTable") == BASE

    @pytest.mark.parametrize("where", [0, BASE, 0xFFFFFFFF_FFFFFFF8])
    def test_debugger_data_that_is_not_there(self, monkeypatch, server, where):
        fake = FakePykd.of_machine(server, symbols=False).install(monkeypatch)
        fake.debugger_data = where
        with pytest.raises(SymbolNotFoundError):
            open_session().symbol("PoolTrackTable")

    def test_layouts_of_private_symbols(self, open_over):
        session, fake = open_over(1)
        fake.types = {
            "_POOL_TRACKER_TABLE": FakeType(0x38, {"Key": (0, 4), "PagedBytes": (0x20, 8), "nowhere": (None, 4)})
        }
        for _ in range(3):
            assert session.field_layout("_POOL_TRACKER_TABLE") == TypeLayout(
                0x38, {"Key": FieldLayout(0, 4), "PagedBytes": FieldLayout(0x20, 8)}
            )
            with pytest.raises(SymbolNotFoundError):
                session.field_layout("_NO_SUCH_TYPE")
        assert fake.calls == {"typeInfo": 2}


@pytest.fixture(scope="module", params=REPORTS, ids=str)
def forged(request):
    scenario, build, arch = request.param
    return forge(scenario, healthy_share=32, build=build, processors=3, arch=arch)


class TestReports:
    """A dump in the debugger and the same dump as a file: the same answers."""

    @pytest.mark.parametrize("symbols", [True, False], ids=["symbols", "no symbols"])
    def test_same_snapshot(self, monkeypatch, forged, tmp_path, symbols):
        path = tmp_path / "MEMORY.DMP"
        forged.save(path)
        with open_crashdump(str(path)) as dump:
            native = read_pool_snapshot(open_kernel(dump))
        FakePykd.of_machine(forged, symbols=symbols).install(monkeypatch)
        found = read_pool_snapshot(open_kernel(open_session()))
        assert found.source.symbols == ("target" if symbols else native.source.symbols)
        assert dataclasses.replace(found, source=native.source) == native

    def test_same_images(self, monkeypatch, forged, tmp_path):
        def index(target):
            tags = [PoolTag(tag) for tag in forged.truth.tags]
            index = ImageIndex(open_kernel(target).images, tags)
            return [
                (entry.image.module.name, entry.image.pdb, entry.version, entry.present_bytes)
                for entry in index.modules
            ]

        path = tmp_path / "MEMORY.DMP"
        forged.save(path)
        with open_crashdump(str(path)) as dump:
            native = index(dump)
        FakePykd.of_machine(forged).install(monkeypatch)
        assert index(open_session()) == native


def test_no_byte_is_read_twice(monkeypatch):
    """16 processors with 4097 rows of 38h bytes, then every image."""
    machine = forge("pipo", build=19041, processors=16, table_rows=4097)
    fake = FakePykd.of_machine(machine).install(monkeypatch)
    kernel = open_kernel(open_session())
    assert read_pool_snapshot(kernel).coverage.is_complete
    tables = 16 * 4097 * 0x38
    print(f"used: {fake.bytes_read:,} bytes in {fake.call_count} calls, of which tables {tables:,}")
    for number in range(16):
        table = machine.addresses[f"table:{number}"]
        assert fake.reads_of(table, 4097 * 0x38) == 4097 * 0x38
    assert fake.repeated_bytes() == 0
    assert tables < fake.bytes_read < tables + 64 * PAGE
    assert fake.call_count < tables / 0x10000 + 150

    before = fake.bytes_read
    ImageIndex(kernel.images, [PoolTag(b"Pipo")])
    print(f"find: {fake.bytes_read - before:,} bytes more, {fake.call_count} calls")
    assert fake.repeated_bytes() == 0
    assert len(fake.failures) == len(set(fake.failures))


def test_a_dump_of_this_project_behind_the_fake(monkeypatch, server, tmp_path):
    """The fake serves any target: here what the native reader makes of a dump."""
    path = tmp_path / "MEMORY.DMP"
    server.save(path)
    with open_crashdump(str(path)) as dump:
        FakePykd.of_target(dump).install(monkeypatch)
        session = open_session()
        assert [module.name for module in session.modules()] == [module.name for module in dump.modules()]
        native = read_pool_snapshot(open_kernel(dump))
        assert read_pool_snapshot(open_kernel(session)).tags == native.tags


@pytest.mark.engine
def test_the_fake_speaks_as_the_engine_does(server, tmp_path):
    path = tmp_path / "MEMORY.DMP"
    server.save(path)
    commands = ("vertarget", "||.", "lm", ".dumpdebug")
    try:
        with open_engine() as engine:
            real = engine.ask(path, {command: command for command in commands}).outputs
    except EngineUnavailable as reason:
        pytest.skip(str(reason))
    pykd = FakePykd.of_machine(server, dump_path=windows_path(path))
    fake = {command: pykd.dbgCommand(command) for command in commands}
    assert parse_system(fake["vertarget"]) == parse_system(real["vertarget"])
    assert parse_session(fake["||."]) == parse_session(real["||."])
    assert real["||."].partition(":")[0] == fake["||."].partition(":")[0]
    assert parse_debugger_data_address(fake[".dumpdebug"]) == parse_debugger_data_address(real[".dumpdebug"])
    assert parse_unloaded(fake["lm"]) == parse_unloaded(real["lm"])
    assert parse_modules(fake["lm"]) == parse_modules(real["lm"])
