"""Dumps on other machines: the same answers as from a local file, for little traffic."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
from importlib.util import find_spec

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.errors import TargetError
from pykdext.printable import hide_secrets
from pykdext.targets.dump import remote, webparts
from pykdext.targets.dump.compressed import open_file
from pykdext.targets.dump.remote import (
    BLOCK_BYTES,
    CACHE_BYTES,
    MAX_REQUEST_BYTES,
    find_remote_files,
    open_remote_file,
)
from tests.benchmarks.largedumps import SCATTERED, make_large_dump
from tests.helpers.lyingserver import LyingServer
from tests.helpers.patience import ends_soon
from tests.helpers.rangeserver import RangeServer

fsspec = pytest.importorskip("fsspec", reason="remote files need fsspec")

PAGE = 0x1000
BITMAP_AT = 0x2038
DATA_BYTES = 3_000_001


@pytest.fixture(scope="module")
def data():
    return random.Random(1).getrandbits(8 * DATA_BYTES).to_bytes(DATA_BYTES, "little")


@pytest.fixture
def stored(data):
    store = fsspec.filesystem("memory")
    store.pipe("/dumps/random.dmp", data)
    yield "memory://dumps/random.dmp"
    store.rm("/dumps", recursive=True)


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("aiohttp", reason="web servers are read with aiohttp")
    with RangeServer(tmp_path) as running:
        yield running


def stretch(machine, path, pages):
    """A full bitmap dump of the machine with so many pages, all marked as present: a sparse file."""
    machine.save(path, kind=5)
    header = bytearray(path.read_bytes()[:BITMAP_AT])
    first_page = -(-(BITMAP_AT + pages // 8) // PAGE) * PAGE
    struct.pack_into("<QQQ", header, 0x2020, first_page, pages, pages)
    with open(path, "wb") as file:
        file.write(header + b"\xff" * (pages // 8))
        for number in machine.memory.present_frames():
            file.seek(first_page + number * PAGE)
            file.write(machine.memory.pages[number])
        file.truncate(first_page + pages * PAGE)


def test_any_part_is_that_of_the_file(stored, data):
    chance = random.Random(2)
    with open_remote_file(stored) as file:
        assert file.size == len(data)
        for _ in range(300):
            offset = chance.randrange(DATA_BYTES + 10)
            size = chance.choice((1, 8, PAGE, BLOCK_BYTES + 1, MAX_REQUEST_BYTES))
            assert file.read_at(offset, size) == data[offset : offset + size]
        assert file.read_at(DATA_BYTES, 1) == b""


def test_what_is_read_again_is_not_fetched_again(stored, data):
    with open_remote_file(stored) as file:
        for _ in range(3):
            for offset in range(0, 64 * PAGE, PAGE):
                assert file.read_at(offset, 16) == data[offset : offset + 16]
        assert 64 * PAGE <= file.fetched_bytes <= 2 * 64 * PAGE


def test_reads_in_sequence_need_few_requests(stored, data):
    with open_remote_file(stored) as file:
        read = b"".join(file.read_at(offset, PAGE) for offset in range(0, DATA_BYTES, PAGE))
        assert read == data
        assert file.fetched_bytes == DATA_BYTES
        assert file.requests <= 12


def test_reads_at_random_fetch_little(stored):
    with open_remote_file(stored) as file:
        for offset in range(0, DATA_BYTES - PAGE, 40 * PAGE):
            file.read_at(offset, PAGE)
        reads = len(range(0, DATA_BYTES - PAGE, 40 * PAGE))
        assert file.requests == reads
        assert file.fetched_bytes <= reads * 2 * BLOCK_BYTES


def test_the_cache_is_bounded(tmp_path):
    path = tmp_path / "large.dmp"
    with open(path, "wb") as file:
        file.truncate(3 * CACHE_BYTES)
    with open_remote_file(path.as_uri()) as remote:
        for offset in range(0, 3 * CACHE_BYTES, MAX_REQUEST_BYTES):
            remote.read_at(offset, MAX_REQUEST_BYTES)
        assert sum(map(len, remote._blocks.values())) <= CACHE_BYTES
        assert remote.fetched_bytes == 3 * CACHE_BYTES


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_web_server_gives_the_same_report(server, tmp_path, capsys, suffix):
    path = tmp_path / f"MEMORY.DMP{suffix}"
    forge("pipo").save(path)
    assert main([str(path), "--format", "json"]) == 0
    local = capsys.readouterr().out
    url = f"{server.url}/{path.name}"
    assert main([url, "--format", "json"]) == 0
    assert capsys.readouterr().out == local.replace(str(path), url)


@pytest.mark.parametrize("name", ["SRV01.dmp", "SRV01.dmp.gz", "gone.dmp", "cut.dmp"])
def test_nothing_secret_of_a_url_is_shown_or_stored(server, tmp_path, capsys, name):
    forge("pipo").save(tmp_path / "SRV01.dmp")
    forge("pipo").save(tmp_path / "SRV01.dmp.gz")
    (tmp_path / "cut.dmp").write_bytes((tmp_path / "SRV01.dmp").read_bytes()[:100])
    url = f"{server.url}/{name}?sv=2024&sig=S3cret%2Fx".replace("://", "://reader:S3cret@")
    shown = url.replace("S3cret%2Fx", "***").replace("S3cret", "***")
    status = 0 if name.startswith("SRV01") else 3
    assert main([url]) == status
    captured = capsys.readouterr()
    assert shown in captured.out + captured.err
    said = [captured.out, captured.err]
    for form in ("json", "csv", "text", *(["html"] if find_spec("jinja2") else [])):
        words = ["batch", url, "--store", str(tmp_path / "weeks.sqlite"), "--format", form, "-o", str(tmp_path / form)]
        main(words)
        said += capsys.readouterr()
        if (tmp_path / form).exists():
            said.append((tmp_path / form).read_text())
    said += [path.read_bytes().decode("latin-1") for path in tmp_path.glob("weeks.sqlite*")]
    assert "S3cret" not in "".join(said)
    if status == 0:
        assert json.loads((tmp_path / "json").read_text())["dumps"][0]["host"] == "SRV01"
        assert json.loads((tmp_path / "json").read_text())["dumps"][0]["path"] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at smb://me:a:b@c@nas/x.dmp: gone", "at smb://me:***@nas/x.dmp: gone"),
        ("s3://bucket/MEMORY.DMP", "s3://bucket/MEMORY.DMP"),
        ("https://me@nas:8080/a@b.dmp", "https://me@nas:8080/a@b.dmp"),
        ("https://h/x?X-Amz-Date=1&X-Amz-Signature=ab12&id=7", "https://h/x?X-Amz-Date=1&X-Amz-Signature=***&id=7"),
        ("C:\\dumps\\a?key=1:2@3", "C:\\dumps\\a?key=1:2@3"),
        ("https://TOKEN@host/a.dmp", "https://***@host/a.dmp"),
        ("https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@h/a", "https://***@h/a"),
        ("https://h/x?pass=a1&id=7", "https://h/x?pass=***&id=7"),
        ("https://h/x?pw=a1;v=2", "https://h/x?pw=***;v=2"),
        ("https://h/x?a=1&jwt=e30.e30.x", "https://h/x?a=1&jwt=***"),
        ("https://h/x#access_token=abc&n=1", "https://h/x#access_token=***&n=1"),
        ("https://h/x;token=abc;v=2/y", "https://h/x;token=***;v=2/y"),
        ("https://h/x?sid=1&passphrase=b&PWD=c", "https://h/x?sid=***&passphrase=***&PWD=***"),
    ],
)
def test_passwords_and_signatures_are_hidden(text, shown):
    assert hide_secrets(text) == shown


@ends_soon
@pytest.mark.parametrize("piece", ["?sig", "?", "&key", "://a:", "=sig"])
def test_text_of_a_server_keeps_nobody_busy(piece):
    assert hide_secrets("https://h/" + piece * 100_000)


def test_a_large_dump_costs_little_traffic(server, tmp_path, capsys):
    path = tmp_path / "MEMORY.DMP"
    stretch(forge("pipo"), path, pages=(8 << 30) // PAGE)
    assert path.stat().st_size > 8 << 30
    assert main([f"{server.url}/MEMORY.DMP"]) == 0
    shown = capsys.readouterr()
    assert "looks like a leak of pippo.sys (proven)" in " ".join(shown.out.split())
    assert server.behaviour.sent_bytes < 64e6
    assert "of 8.00 GB were fetched" in shown.err


def test_a_dump_of_a_large_server_costs_tens_of_megabytes(server, tmp_path, capsys):
    dump = make_large_dump(tmp_path, SCATTERED, 0).path
    assert dump.stat().st_size > 48e9
    assert main([f"{server.url}/{dump.name}", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["suspects"][0]["tag"] == "Pipo"
    assert server.behaviour.sent_bytes < 64e6


def test_a_request_that_fails_is_repeated(server, tmp_path, data):
    (tmp_path / "x.dmp").write_bytes(data)
    with open_remote_file(f"{server.url}/x.dmp") as file:
        server.behaviour.fail_next = 1
        assert file.read_at(5000, 100) == data[5000:5100]


def test_a_share_that_vanishes_is_one_line(server, tmp_path, capsys):
    path = tmp_path / "MEMORY.DMP"
    forge("pipo").save(path)
    server.behaviour.cut_at = 0x10000
    assert main([f"{server.url}/MEMORY.DMP"]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"poolleak: {server.url}/MEMORY.DMP: at 0x") and error.count("\n") == 1


LIES = {
    "another part": (None, "bytes {start}-{last}/{size}", "wrong", "bytes 4096-"),
    "another size": (None, "bytes {start}-{last}/99", "right", "/99"),
    "no range": (None, None, "right", "expected 'bytes"),
    "too few": (None, "bytes {start}-{last}/{size}", "short", "bytes, expected"),
    "without end": (None, "bytes {start}-{last}/{size}", "endless", "a part of more bytes"),
    "replaced": ("ETag", "bytes {start}-{last}/{size}", "right", "was replaced"),
    "a file": ("file:///etc/hostname", None, "right", "hostname"),
    "a circle": ("/x.dmp", None, "right", "cannot be read"),
}


def read_lies(url):
    with open_remote_file(url) as file:
        assert file.read_at(0, 8) == bytes(8)
        file.read_at(2 << 20, 8)


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_found_out(lie, monkeypatch):
    """It lies from its second answer on: what it sent before looked right."""
    pytest.importorskip("aiohttp", reason="web servers are read with aiohttp")
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.0)
    with LyingServer(3 << 20, *LIES[lie][:3]) as server:
        with pytest.raises(TargetError) as caught:
            read_lies(f"{server.url}/x.dmp")
        assert "\n" not in str(caught.value)
        assert LIES[lie][3] in str(caught.value)
        assert server.sent_bytes < 64 << 20


def test_a_server_that_drips_is_given_up(monkeypatch):
    pytest.importorskip("aiohttp", reason="web servers are read with aiohttp")
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(webparts, "PART_SECONDS", 0.2)
    server = LyingServer(3 << 20, None, "bytes {start}-{last}/{size}", "drip")
    with server, pytest.raises(TargetError, match="no whole part within"):
        read_lies(f"{server.url}/x.dmp")


@pytest.mark.parametrize("lie", ["another part", "a file", "without end", "replaced"])
def test_a_packed_dump_of_a_server_that_lies_is_one_line(lie, data, capsys):
    pytest.importorskip("aiohttp", reason="web servers are read with aiohttp")
    with LyingServer(3 << 20, *LIES[lie][:3], content=gzip.compress(data[: 2 << 20])) as server:
        assert main([f"{server.url}/x.dmp"]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"poolleak: {server.url}/x.dmp: ") and error.count("\n") == 1


def test_a_server_that_gives_no_parts_is_refused(server, tmp_path, data):
    (tmp_path / "x.dmp").write_bytes(data)
    server.behaviour.gives_parts = False
    with pytest.raises(TargetError, match=r"x\.dmp"), open_file(f"{server.url}/x.dmp") as file:
        file.read_at(0x100000, 16)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/MEMORY.DMP", "Connect"),
        ("memory://nowhere/MEMORY.DMP", "MEMORY.DMP"),
        ("file:///nowhere/MEMORY.DMP", "No such file"),
        ("nothing://host/MEMORY.DMP", "nothing"),
    ],
)
def test_what_cannot_be_opened_is_one_line(url, words, capsys):
    assert main([url]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"poolleak: {url}: cannot be opened: ") and error.count("\n") == 1
    assert words in error


def test_urls_of_folders_and_patterns_are_listed(tmp_path, server):
    for name in ("a.dmp", "b.dmp.gz", "notes.txt"):
        (tmp_path / name).write_bytes(gzip.compress(b"x"))
    folder = tmp_path.as_uri()
    assert [os.path.basename(entry.url) for entry in find_remote_files(folder).entries] == [
        "a.dmp",
        "b.dmp.gz",
        "notes.txt",
    ]
    assert [entry.url for entry in find_remote_files(f"{folder}/*.dmp").entries] == [f"{folder}/a.dmp"]
    web = find_remote_files(f"{server.url}/")
    assert web.is_folder and f"{server.url}/a.dmp" in [entry.url for entry in web.entries]
    before = server.behaviour.requests
    assert find_remote_files(f"{server.url}/a.dmp").entries[0].identity
    assert server.behaviour.requests == before, "asking for a file's size fetched its content"
    with pytest.raises(TargetError, match="cannot be listed"):
        find_remote_files(f"{server.url}/missing.dmp")
