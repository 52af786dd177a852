"""Progress tells the truth: each step reaches its end, or says where and why it stopped."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from dumps.forge import forge
from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.pageframes import plan_frames
from pykdext.cli import screen
from pykdext.cli.main import main
from pykdext.kernel.pool import smallblocks
from pykdext.kernel.pool.smallblocks import WalkLimits, find_small_blocks
from pykdext.model import PoolTag
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.work import Work

UNIT = re.compile(r"[ ,]*(\(.*\)|\d+ a minute)$")


class Watcher:
    def __init__(self):
        self.last, self.lines = {}, []

    def __call__(self, done, total, what):
        assert 0 <= done <= total
        self.last[UNIT.sub("", what)] = done, total

    def tell(self, line):
        self.lines.append(line)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        return None


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    forge("pipo", build=22000, memory=MemoryPlan(), page_frames=plan_frames(0x4000, PTEs=600)).save(path)
    return path


@pytest.fixture
def watcher(monkeypatch):
    watched = Watcher()
    monkeypatch.setattr(screen, "TerminalProgress", lambda: watched)
    return watched


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        ([], "driver images"),
        (["blocks", "Pipo"], "MB of kernel memory"),
        (["memory"], "page frames"),
        ([], "tags followed to their calls"),
        (["trend"], "logs"),
        (["batch", "--jobs", "1"], "dumps"),
    ],
)
def test_each_step_reaches_its_end(dump, watcher, capsys, words, unit):
    main([*words, str(dump)] if words != ["trend"] else ["trend", str(dump), str(dump.parent / "MEMORY.DMP")])
    assert unit in watcher.last
    assert {what: done == total for what, (done, total) in watcher.last.items()} == dict.fromkeys(watcher.last, True)
    assert watcher.lines == []


def test_a_step_that_is_interrupted_says_where(dump):
    lines = []

    def interrupt(done, _total, _what):
        if done == 2:
            raise KeyboardInterrupt

    work = Work(interrupt, keeps_results=True, tell=lines.append)
    with work.hold():
        for number in range(5):
            work.report(number, 5, "driver images")
    assert lines == ["stopped after 2 of 5 driver images: interrupted"]
    work.stop("again")
    assert len(lines) == 1


def test_a_step_that_is_done_does_not_stop():
    lines = []
    work = Work(keeps_results=True, tell=lines.append)
    work.stop("nothing was begun")
    with work.hold():
        work.report(5, 5, "logs")
        raise KeyboardInterrupt
    assert (lines, work.is_ended) == ([], True)


def test_a_search_that_reaches_a_limit_says_which(dump, monkeypatch):
    lines = []
    with open_crashdump(str(dump)) as target:
        found = find_small_blocks(target, PoolTag.from_text("Pipo"), Work(tell=lines.append), WalkLimits(1))
        assert (found.ended_by, lines) == ("enough blocks were found", [])
        monkeypatch.setattr(smallblocks, "MAX_WALK_SECONDS", -1.0)
        found = find_small_blocks(target, PoolTag.from_text("Pipo"), Work(tell=lines.append))
    assert not found.complete
    assert re.fullmatch(r"stopped after \d+ of \d+ MB of kernel memory: time limit of .*", lines[0])


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_what_stops_stays_on_the_terminal(monkeypatch):
    seconds = iter(range(0, 1_000_000, 10))
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with screen.TerminalProgress() as progress:
        progress(3, 15, "driver images")
        progress.tell("stopped after 3 of 15 driver images: \x1b[31minterrupted")
    written = sys.stderr.getvalue()
    assert r"stopped after 3 of 15 driver images: \x1b[31minterrupted" in written


def test_who_has_not_waited_is_told_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with screen.TerminalProgress() as progress:
        progress(3, 15, "driver images")
        progress.tell("stopped after 3 of 15 driver images: interrupted")
    assert sys.stderr.getvalue() == ""
