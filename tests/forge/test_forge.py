"""The forge as a whole: the same wishes make the same bytes, the sample, the command line, damage, large files."""

from __future__ import annotations

import lzma
import struct
import zipfile
from pathlib import Path

import pytest

from dumps.forge import BUILDS, SCENARIOS, TagTruth, forge
from dumps.forge.__main__ import main
from dumps.forge.large import forge_large
from tests.forge.test_forge_architectures import parse_row
from tests.helpers.patience import ends_soon

PROJECT = Path(__file__).resolve().parent.parent.parent
SAMPLE = PROJECT / "dumps" / "samples" / "pipo-19041.dmp.xz"


def test_frames_are_scattered():
    machine = forge("quiet")
    tables = [machine.space.translate(machine.addresses[f"page:{state}"]) for state in ("prototype", "transition")]
    frames = machine.memory.present_frames()
    assert all(frame for frame in tables)
    assert frames[-1] - frames[0] > 0x80000
    pool = [machine.space.translate(block.va) for block in machine.truth.blocks[b"File"]]
    assert len({physical >> 12 for physical in pool}) == 2
    gaps = sum(b - a > 1 for a, b in zip(frames, frames[1:]))
    assert gaps > len(frames) / 10


@pytest.mark.parametrize("kind", [1, 6])
def test_same_arguments_make_the_same_file(tmp_path, kind):
    paths = [tmp_path / name for name in ("a.dmp", "b.dmp", "c.dmp")]
    for path, seed in zip(paths, (1, 1, 2)):
        forge("toke", build=20348, seed=seed).save(path, kind=kind)
    first, second, other = (path.read_bytes() for path in paths)
    assert first == second
    assert first != other


def test_sample_is_what_its_command_makes(tmp_path):
    made = tmp_path / "sample.dmp.xz"
    assert main(["pipo", "--build", "19041", "--kind", "6", "-o", str(made)]) == 0
    assert lzma.decompress(SAMPLE.read_bytes()) == lzma.decompress(made.read_bytes())
    assert SAMPLE.stat().st_size < 1 << 20


def test_readme_shows_the_samples_command():
    assert f"python -m dumps.forge pipo --build 19041 --kind 6 -o dumps/samples/{SAMPLE.name}" in (
        PROJECT / "dumps" / "README.md"
    ).read_text(encoding="utf-8")


def test_command_line(tmp_path, capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)
    with pytest.raises(SystemExit) as wrong:
        main(["pipo"])
    assert wrong.value.code == 2
    main(["paged", "--build", "7601", "--unknown-kernel", "-o", str(tmp_path / "p.dmp.gz")])
    assert (tmp_path / "p.dmp.gz").read_bytes()[:2] == b"\x1f\x8b"
    path = tmp_path / "x.dmp.zip"
    wishes = ["--arch", "x86pae", "--build", "2600", "--untagged", "--kind", "5", "--live", "--encrypted"]
    main(["quiet", *wishes, "-o", str(path)])
    with zipfile.ZipFile(path) as archive:
        header = archive.read("x.dmp")[:0x1000]
    assert header[:8] == b"PAGEDUMP"
    assert struct.unpack_from("<I", header, 0x8A0) == (0x110,)
    with pytest.raises(SystemExit) as wrong:
        main(["quiet", "--build", "19042", "-o", str(tmp_path / "never.dmp")])
    assert wrong.value.code == 2
    assert "the forge knows 7601" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "pippo"}, "knows quiet, pipo"),
        ({"scenario": "pipo", "build": 19045}, "knows 7601"),
        ({"scenario": "pipo", "table_rows": 1000}, "power of two"),
        ({"scenario": "pipo", "untagged": True}, "only XP"),
        ({"scenario": "pipo", "arch": "arm64", "swizzle": True}, "swizzle"),
        ({"scenario": "pipo", "build": 7601, "encoded_kdbg": True}, "since Windows 8"),
    ],
)
def test_unknown_wishes(arguments, message):
    with pytest.raises(ValueError, match=message):
        forge(**arguments)


def test_damage(tmp_path):
    machine = forge("pipo")
    nt = machine.addresses["nt"]
    machine.write_virtual(nt, b"XX")
    assert machine.read_virtual(nt, 2) == b"XX"
    table = machine.addresses["table:1"]
    before = machine.read_virtual(table + 0x1000, 0x100)
    machine.unmap(table, 0x1000)
    with pytest.raises(ValueError, match="not mapped"):
        machine.read_virtual(table, 4)
    assert machine.read_virtual(table + 0x1000, 0x100) == before
    machine.header.directory_table_base = 0
    machine.header.attributes = 4
    machine.save(tmp_path / "m.dmp")
    data = (tmp_path / "m.dmp").read_bytes()
    assert data[0x10:0x18] == bytes(8)
    assert data[0x1050:0x1054] == b"\x04\0\0\0"


def test_expansion_table():
    machine = forge("twins", build=17763)
    rows = [machine.read_virtual(machine.addresses["expansion"] + 0x38 * n, 0x38) for n in range(3)]
    assert [row[:4] for row in rows] == [b"Xp01", b"Xp02", bytes(4)]
    assert TagTruth(*parse_row(rows[0])[1:]) == machine.truth.tags[b"Xp01"]
    assert "expansion" not in forge("pipo").addresses


@pytest.mark.parametrize("build", BUILDS)
def test_unknown_kernel_keeps_its_globals_near_but_elsewhere(build):
    known, unknown = forge("quiet", build=build), forge("quiet", build=build, known_kernel=False)
    assert known.truth.kernel_guid != unknown.truth.kernel_guid
    for name in ("ExPoolTagTables", "PoolBigPageTable"):
        distance, other = (m.addresses[name] - m.addresses["PoolTrackTable"] for m in (unknown, known))
        assert distance != other
        assert abs(distance) < 0x5000


def test_more_rows():
    machine = forge("quiet", table_rows=4097)
    assert machine.addresses["table:1"] - machine.addresses["table:0"] > 4097 * 0x38


@ends_soon
def test_large_dump(tmp_path):
    path = tmp_path / "large.dmp"
    machine = forge_large(path, present_gib=1, span_gib=8)
    with open(path, "rb") as file:
        file.seek(0x2020)
        first, present_pages, bits = struct.unpack("<QQQ", file.read(24))
        bitmap = int.from_bytes(file.read(bits // 8), "little")
        assert bin(bitmap).count("1") == present_pages
        assert present_pages == pytest.approx(1 << 18, rel=0.05)
        assert path.stat().st_size == first + present_pages * 0x1000
        for frame in machine.memory.present_frames()[::17]:
            rank = bin(bitmap & (1 << frame) - 1).count("1")
            file.seek(first + rank * 0x1000)
            assert file.read(0x1000) == machine.memory.pages[frame]
    with pytest.raises(ValueError, match="fewer pages"):
        forge_large(path, present_gib=9, span_gib=8)
