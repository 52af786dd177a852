"""The command line as a user meets it: output, exit status, errors in one line."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shlex
import subprocess
import sys

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.model import PoolKind
from pykdext.records.snapshotfile import load_snapshot
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def machine():
    return forge("pipo", build=19041)


@pytest.fixture(scope="module")
def dump(machine, tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    machine.save(path)
    return str(path)


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys, *arguments, status=3):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (status, "")
    assert err.startswith("poolleak: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_a_dump_alone_means_analyze(dump, capsys):
    assert run(capsys, dump, "--width", 100) == run(capsys, "analyze", dump, "--width", 100)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("command", [["analyze"], ["used"], ["used", "--view", "poolused"], ["find", "Pipo", "Toke"]])
def test_text_is_plain_and_fits_its_width(dump, capsys, command, width):
    status, out, err = run(capsys, *command, dump, "--width", width)
    assert (status, err) == (0, "")
    assert out.isascii() and "\x1b" not in out
    too_long = [line for line in out.splitlines() if len(line) > width and dump not in line]
    assert not too_long


def test_used_shows_poolmons_columns(dump, capsys, machine):
    _, out, _ = run(capsys, "used", dump, "--tag", "Pipo", "--width", 100)
    truth = machine.truth.tags[b"Pipo"]
    head, rule, line = out.splitlines()[6:9]
    assert head.split() == ["Tag", "Type", "Allocs", "Frees", "Diff", "Bytes", "Per", "Alloc", "Driver", "and", "use"]
    assert set(rule) == {"-", " "}
    diff = truth.nonpaged_allocs - truth.nonpaged_frees
    numbers = (truth.nonpaged_allocs, truth.nonpaged_frees, diff, truth.nonpaged_bytes, truth.nonpaged_bytes // diff)
    assert line.split() == ["Pipo", "Nonp", *(f"{number:,}" for number in numbers)]


def test_used_shows_pooluseds_columns_and_total(dump, capsys, machine):
    _, out, _ = run(capsys, "used", dump, "--view", "poolused", "--tag", "Pipo")
    total = next(line for line in out.splitlines() if line.startswith("TOTAL")).split()
    truths = machine.truth.tags.values()
    assert total[2] == f"{sum(truth.nonpaged_bytes for truth in truths):,}"
    assert total[4] == f"{sum(truth.paged_bytes for truth in truths):,}"


def test_a_filter_leaves_the_totals_alone(dump, capsys, machine):
    _, out, _ = run(capsys, "used", dump, "--format", "json", "--tag", "Pip?", "--pool", "nonpaged")
    document = json.loads(out)
    assert [row["tag"] for row in document["tags"]] == ["Pipo"]
    assert document["totals"]["nonpaged_bytes"] == sum(truth.nonpaged_bytes for truth in machine.truth.tags.values())


def test_chosen_rows_say_so_when_they_are_read_again(dump, capsys, tmp_path):
    path = tmp_path / "chosen.json"
    run(capsys, "used", dump, "--format", "json", "--tag", "Irp", "-o", path)
    _, out, _ = run(capsys, "analyze", path)
    assert "1 of 184 tags in use was chosen" in " ".join(out.split())
    run(capsys, "used", dump, "--format", "json", "-o", path)
    assert json.loads(path.read_text())["warnings"] == []


def test_blanks_of_tags_are_kept(dump, capsys):
    _, out, _ = run(capsys, "used", dump, "--format", "json", "--tag", "Irp")
    assert json.loads(out)["tags"][0]["tag"] == "Irp "


@pytest.mark.parametrize("name", ["state.json", "state.json.gz"])
def test_a_snapshot_answers_like_its_dump(dump, capsys, tmp_path, name):
    path = tmp_path / name
    assert run(capsys, "snapshot", dump, "-o", path) == (0, "", "")
    _, of_dump, _ = run(capsys, "used", dump, "--width", 100)
    _, of_file, _ = run(capsys, "used", path, "--width", 100)
    assert of_file == of_dump
    assert load_snapshot(str(path)).total_bytes(PoolKind.NONPAGED) > 2 << 30
    status, out, _ = run(capsys, path)
    assert status == 0 and "A dump or the machine's driver files can tell" in " ".join(out.split())


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress), ("bin", gzip.compress)])
def test_compressed_dumps_are_read_directly(dump, capsys, tmp_path, suffix, pack):
    packed = tmp_path / f"MEMORY.DMP.{suffix}"
    packed.write_bytes(pack(open(dump, "rb").read()))
    _, plain, _ = run(capsys, "used", dump)
    status, out, _ = run(capsys, "used", packed)
    assert status == 0
    assert out.splitlines()[1:] == plain.splitlines()[1:]


def test_output_goes_to_a_file(dump, capsys, tmp_path):
    path = tmp_path / "report.json"
    assert run(capsys, dump, "--format", "json", "-o", path) == (0, "", "")
    assert json.loads(path.read_text())["schema"] == "poolleak.report/1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"MDMP" + bytes(5000), "user-mode"),
        (b"no dump at all, just text", "poolmon"),
        (b"\x00\x01\x02 binary \xff\xfe" * 9, "PAGEDU64"),
        (b"PAGEDU64" + bytes(100), "0x"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"MSCF" + bytes(100), "cab"),
        (b'{"schema": "poolleak.snapshot/1"}', "fields of poolleak.snapshot/1"),
    ],
)
def test_what_is_no_dump_gets_one_line(content, words, tmp_path, capsys):
    path = tmp_path / "what.dmp"
    path.write_bytes(content)
    assert words.lower() in fails(capsys, path).lower()


def test_a_missing_file_and_a_folder_get_one_line(tmp_path, capsys):
    assert "No such file" in fails(capsys, tmp_path / "absent.dmp")
    assert str(tmp_path) in fails(capsys, tmp_path)
    assert "pooltag" in fails(capsys, tmp_path / "x.dmp", "--pooltags", tmp_path / "pooltag.txt")


def test_an_output_that_cannot_be_written_gets_one_line(dump, tmp_path, capsys):
    assert "No such file" in fails(capsys, dump, "-o", tmp_path / "no" / "folder.txt")


@pytest.mark.parametrize(
    "arguments",
    [
        ["find", "Toolong"],
        ["used", "x", "--sort", "size"],
        ["find", "Toolong", "x"],
        ["used", "x", "--top", "0"],
        ["x", "--width", "7"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_no_arguments_show_help(capsys):
    status, out, _ = run(capsys)
    assert status == 2 and "usage: poolleak" in out


def test_debug_shows_where_it_failed(tmp_path):
    from pykdext.errors import PykdextError

    path = tmp_path / "x.dmp"
    path.write_bytes(b"nothing of a dump in it")
    with pytest.raises(PykdextError):
        main([str(path), "--debug"])


def test_part_of_the_input_missing_is_status_1(machine, tmp_path, capsys):
    hurt = forge("pipo", build=19041)
    hurt.omit(hurt.addresses["table:2"], 0x1000)
    path = tmp_path / "partial.dmp"
    hurt.save(path)
    status, out, _ = run(capsys, path)
    assert status == 1
    assert "rows are not in the target" in " ".join(out.split())


def test_hostile_names_stay_harmless(tmp_path, capsys):
    hurt = forge("pipo", build=19041)
    name = "pi\x1b[2J\u202e.sys"
    entry = hurt.addresses["entry:pippo.sys"]
    buffer = int.from_bytes(hurt.read_virtual(entry + 0x60, 8), "little")
    hurt.write_virtual(buffer, name.encode("utf-16-le").ljust(18, b"\0")[:18])
    path = tmp_path / "hostile.dmp"
    hurt.save(path)
    _, out, _ = run(capsys, path)
    assert "\x1b" not in out and "\u202e" not in out and out.isascii()


def test_hostile_texts_of_a_snapshot_stay_harmless(dump, tmp_path, capsys):
    path = tmp_path / "state.json"
    run(capsys, "snapshot", dump, "-o", path)
    document = json.loads(path.read_text())
    document["source"]["kind"] = "\x1b[2J\u202e\r\nkind"
    document["warnings"] = ["\x07\x9b1m"]
    path.write_text(json.dumps(document))
    _, out, _ = run(capsys, "used", path)
    assert "\\x1b[2J\\u202e" in out and "\\x9b1m" in out
    assert out.isascii() and out.replace("\n", "").isprintable()


def poolleak(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "pykdext", *arguments], capture_output=True, text=True, **options)


def test_as_a_process(dump):
    done = poolleak(dump)
    assert done.returncode == 0 and done.stderr == ""
    assert "pippo.sys (proven)" in done.stdout
    assert poolleak("--version").stdout.startswith("poolleak ")
    ascii_only = poolleak("used", dump, env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert ascii_only.returncode == 0


def test_a_reader_that_goes_away_is_no_error(dump):
    done = subprocess.run(
        f'"{sys.executable}" -m pykdext used "{dump}" | head -n 1', shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_help_and_usage_errors_import_nothing_heavy():
    code = (
        "import sys, pykdext.cli.main\n"
        "from pykdext.cli.commands import COMMANDS\n"
        "for words in [['--help'], *([name, '--help'] for name in COMMANDS), ['used', '--top', 'x']]:\n"
        "    try: pykdext.cli.main.main(words)\n"
        "    except SystemExit: pass\n"
        "    else: raise AssertionError(words)\n"
        "    if len(words) == 1: assert not {'dataclasses', 'pykdext.model'} & set(sys.modules)\n"
        "heavy = {'construct', 'rich', 'json', 'pykdext.pipeline', 'pykdext.kernel'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes files")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_end_nothing(dump, closed):
    command = f"{shlex.quote(sys.executable)} -m pykdext used {shlex.quote(str(dump))} {closed}"
    done = subprocess.run(command, shell=True, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interruption_before_the_work_begins_is_one_line_too(monkeypatch, capsys):
    def interrupt(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr("pykdext.cli.main.load_command", interrupt)
    assert main(["used", "x"]) == 130
    assert capsys.readouterr().err == "poolleak: interrupted\n"
