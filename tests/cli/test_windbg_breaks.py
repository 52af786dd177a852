"""Ctrl-Break at every kind of place: the command ends at once, with what was found or a word that nothing was."""

from __future__ import annotations

import json
import re
import time

import pytest

from pykdext.model import PoolTag
from pykdext.pipeline import TagLists, find_blocks, follow_files, open_source
from pykdext.work import Work
from tests.helpers.fakepykd import FakePykd
from tests.helpers.fakepykd_console import find_broken_markup, imported_once
from tests.helpers.windbgscreens import sample_machine, type_command

COMMANDS = (
    "poolleak",
    "poolleak used",
    "poolleak find Pipo",
    "poolleak blocks Pgla",
    "poolleak snapshot -o state.json",
    "poolleak diff before.json",
)
SAMPLES = 12

FOUND = {
    "poolleak": "interrupted",
    "poolleak used": "interrupted while the tag tables were read: the counts are incomplete",
    "poolleak find Pipo": "interrupted",
    "poolleak blocks Pgla": "interrupted before the search for blocks was through: some are missing",
    "poolleak snapshot -o state.json": "interrupted before the state was read: state.json is not written",
    "poolleak diff before.json": "nothing is compared: interrupted before the session or machine was read",
}
"""What is said of a break somewhere in the middle."""


@pytest.fixture(autouse=True, scope="module")
def modules():
    """Breaks come into calls of pykd, and importing makes none."""
    with imported_once():
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    type_command("poolleak snapshot -o before.json", new_session())
    return tmp_path


def new_session(**options):
    return FakePykd.of_machine(sample_machine("paged"), **options)


def break_into(command, call):
    fake = new_session()
    fake.break_at_call = call
    return fake, type_command(command, fake)


def sample_calls(last):
    """The first calls, the last one, and some between."""
    return sorted({1, 2, 3, last, *range(4, last, max(1, last // SAMPLES))})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_break_at_any_call_ends_the_command(command, folder):
    whole = new_session()
    type_command(command, whole)
    texts = []
    for call in sample_calls(whole.call_count):
        (folder / "state.json").unlink(missing_ok=True)
        fake, ended = break_into(command, call)
        assert not ended.error, call
        assert not find_broken_markup(ended.pieces), call
        assert ended.status == "CTRL+BREAK", call
        assert fake.call_count - call < 25, call
        assert "Traceback" not in ended.text, call
        assert max(map(len, ended.text.splitlines()), default=0) <= 100, call
        assert not (folder / "state.json").exists() or call > whole.call_count - whole.calls["dprint"] - 1, call
        assert not list(folder.glob("*.partial")), call
        texts.append(" ".join(ended.text.split()))
    assert any(FOUND[command] in text for text in texts), texts


@pytest.mark.parametrize("command", ["poolleak", "poolleak used", "poolleak find Pgla", "poolleak blocks Pgla"])
def test_what_was_found_until_then_is_shown(command):
    """Some of the breaks come after the first results: these are on the screen."""
    whole = new_session()
    type_command(command, whole)
    reading = whole.call_count - whole.calls["dprint"]
    texts = [break_into(command, reading - back)[1].text for back in (0, 1, 2, 4, 8)]
    assert any("Pgla" in text for text in texts)
    assert all(text.endswith("poolleak: interrupted\n") for text in texts)


def test_blocks_found_before_a_break_are_kept(folder):
    path = folder / "MEMORY.DMP"
    sample_machine().save(path)
    tag = PoolTag(b"Pipo")
    with open_source(str(path)) as source:
        reports = []
        whole = find_blocks(source, tag, 10, Work(lambda *report: reports.append(report), keeps_results=True))
        counts = set()
        for steps in (0, 1, 2, *(len(reports) * part // 8 for part in range(1, 8))):
            work = Work(break_after(steps), keeps_results=True)
            found = find_blocks(source, tag, 10, work)
            counts.add(len(found.found))
            assert isinstance(work.cause, SystemExit)
            assert set(found.found) <= set(whole.found)
            interrupted = any("interrupted" in warning for warning in found.warnings)
            assert interrupted == work.is_ended
    assert 0 < max(counts) <= len(whole.found)


def break_after(steps):
    """A progress that ends the work as Ctrl-Break does, after so many reports."""
    reports = iter(range(steps))

    def progress(*_):
        if next(reports, None) is None:
            raise SystemExit("CTRL+BREAK")

    return progress


def write_logs(folder, count):
    for number in range(count):
        state = json.loads((folder / "before.json").read_text())
        state["taken_at"] = f"2024-11-12T0{number}:00:00+00:00"
        (folder / f"log-{number}.json").write_text(json.dumps(state))
    return [str(folder / f"log-{number}.json") for number in range(count)]


@pytest.mark.parametrize("read", [1, 3, 5])
def test_logs_read_before_a_break_are_followed(folder, read):
    paths = write_logs(folder, 6)
    work = Work(break_after(read), keeps_results=True)
    followed = follow_files(paths, TagLists({}), work=work)
    assert isinstance(work.cause, SystemExit)
    assert followed.report.samples == read
    (warning,) = followed.unusable
    assert warning == "interrupted: not read: " + ", ".join(paths[read:])


def test_a_break_before_the_first_log_leaves_nothing(folder):
    with pytest.raises(SystemExit):
        follow_files(write_logs(folder, 3), TagLists({}), work=Work(break_after(0), keeps_results=True))


def test_a_break_into_a_trend(folder, monkeypatch):
    write_logs(folder, 6)
    seconds = iter(range(0, 10_000_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr("pykdext.cli.screen.LINE_SECONDS", 3.0)
    whole = new_session()
    type_command("poolleak trend log-*.json", whole)
    assert "of 6 logs" in "".join(text for text, _ in whole.console.pieces)
    texts = []
    for call in range(1, whole.call_count + 1):
        _, ended = break_into("poolleak trend log-*.json", call)
        assert not ended.error
        assert ended.status == "CTRL+BREAK"
        texts.append(" ".join(ended.text.split()))
    assert any(re.search(r"[345] samples .*Warning: interrupted: not read: .*log-5\.json", text) for text in texts)
