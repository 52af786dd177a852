"""Symbol paths, the folders of symbol stores, and downloads from a server on this machine."""

from __future__ import annotations

import contextlib
import http.server
import json
import lzma
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pykdext.errors import SymbolFileError
from pykdext.symbols import folders
from pykdext.symbols.chain import ProfileSymbols, SymbolChain
from pykdext.symbols.download import DownloadLimits, download_pdb
from pykdext.symbols.identity import PdbName
from pykdext.symbols.profiles import load_profile
from pykdext.symbols.search import load_symbols
from pykdext.symbols.symbolpath import Place, StoreChain, parse_symbol_path
from tests.conftest import PROJECT
from tests.helpers.patience import ends_soon
from tests.pdbs import read_pdb, restamp
from tests.symbols.test_isf import DOCUMENT

BASE = 0xFFFFF80000000000
GUID = "5278AFF86C341677D7D7835C85B7B844"
OTHER_GUID = "879AD95F3461091BB6318FA98072AD8E"
NAME = "ntkrnlmp.pdb"
KEY = GUID + "1"
WANTED = PdbName(NAME, GUID, 1)
RVA = 0xC168A8
"""nt!PoolTrackTable of 19041.804."""


@pytest.fixture(scope="module")
def pdb():
    return restamp(read_pdb("10.0.19041.804"), GUID)


@pytest.fixture(scope="module")
def other_pdb():
    return restamp(read_pdb("10.0.20348.2529"), OTHER_GUID)


def isf_document(guid=GUID):
    document = json.loads(json.dumps(DOCUMENT))
    document["metadata"]["windows"]["pdb"]["GUID"] = guid
    return json.dumps(document).encode()


def load(path, name=NAME, guid=GUID, age=1):
    return load_symbols(PdbName(name, guid, age), BASE, str(path))


def put(path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def assert_found(loaded, kind="pdb"):
    assert [source.name for source in loaded.sources] == [kind], loaded.notes
    if kind == "pdb":
        assert loaded.sources[0].find_address("PoolTrackTable") == BASE + RVA


SERVER = "https://msdl.example/download/symbols"

PATHS = {
    "": (),
    " ; ;": (),
    r"C:\Symbols": (Place(r"C:\Symbols"),),
    r'"C:\My Symbols";D:\x.pdb': (Place(r"C:\My Symbols"), Place(r"D:\x.pdb")),
    f"srv*C:\\Symbols*{SERVER}": (StoreChain(("C:\\Symbols", SERVER), "C:\\Symbols"),),
    f"SRV*/a*/b*{SERVER}": (StoreChain(("/a", "/b", SERVER), "/a"),),
    f"srv*{SERVER}": (StoreChain((SERVER,), None),),
    f"srv**{SERVER}": (StoreChain((SERVER,), None),),
    f"symsrv*symsrv.dll*/a*{SERVER}": (StoreChain(("/a", SERVER), "/a"),),
    f"srv*/a*{SERVER};srv*{SERVER}": (StoreChain(("/a", SERVER), "/a"), StoreChain((SERVER,), None)),
    "srv*/a": (StoreChain(("/a",), "/a"),),
    "srv*": (StoreChain((), None),),
    f"srv*{SERVER};cache*/c;srv*{SERVER};srv*/d*{SERVER}": (
        StoreChain((SERVER,), None),
        StoreChain(("/c",), "/c"),
        StoreChain((SERVER,), "/c"),
        StoreChain(("/d", SERVER), "/d"),
    ),
    f"/plain; srv * /a * {SERVER} ;/last": (Place("/plain"), StoreChain(("/a", SERVER), "/a"), Place("/last")),
}


@pytest.mark.parametrize("text", PATHS)
def test_symbol_paths_mean_what_windbg_means(text):
    assert parse_symbol_path(text) == PATHS[text]


def test_no_path_finds_nothing_and_says_nothing():
    assert load("") == load(" ; ")
    assert load("").sources == load("").notes == ()


@pytest.mark.parametrize(
    "place",
    [
        f"{NAME}/{KEY}/{NAME}",
        NAME,
        f"NTKRNLMP.PDB/{KEY.lower()}/NtKrnlMp.pdb",
        "NTKRNLMP.pdb",
    ],
)
@pytest.mark.parametrize("form", ["{}", "srv*{}", "cache*{}", "symsrv*symsrv.dll*{}", "/nowhere;{}"])
def test_a_pdb_is_found_in_a_folder(tmp_path, pdb, place, form):
    put(tmp_path / place, pdb)
    if "*" in form and "/" not in place:
        assert load(form.format(tmp_path)).sources == ()  # a store has no loose files
    else:
        assert_found(load(form.format(tmp_path)))


def test_a_two_tier_store(tmp_path, pdb):
    put(tmp_path / "index2.txt", b"")
    put(tmp_path / "nt" / NAME / KEY / NAME, pdb)
    assert_found(load(f"srv*{tmp_path}"))
    assert_found(load(tmp_path))


def test_a_file_given_by_itself_may_have_any_name(tmp_path, pdb):
    assert_found(load(put(tmp_path / "renamed.bin", pdb)))
    assert_found(load(put(tmp_path / "kernel", lzma.compress(isf_document()))), "isf")


@pytest.mark.parametrize("name", [r"d:\build\nt\ntkrnlmp.pdb", "some/folder/ntkrnlmp.pdb"])
def test_only_the_name_of_the_pdb_counts(tmp_path, pdb, name):
    put(tmp_path / NAME / KEY / NAME, pdb)
    assert_found(load(tmp_path, name=name, guid=GUID.lower()))


@pytest.mark.parametrize("name", ["", "..", "a/..", "nul\0.pdb", "a*b.pdb", "x" * 300, "folder/"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    loaded = load(tmp_path, name=name)
    assert loaded.sources == ()
    assert "expected the file name of a PDB" in loaded.notes[0]


def test_what_is_not_found_is_named_with_every_place(tmp_path):
    cache, plain = tmp_path / "cache", tmp_path / "plain"
    plain.mkdir()
    loaded = load(f"srv*{cache};{plain};{tmp_path / 'missing'}")
    assert loaded.sources == ()
    assert loaded.notes == (
        f"{NAME} GUID {GUID} age 1: not found; looked for {cache}/{NAME}/{KEY}/{NAME}, "
        f"{plain}/{NAME}/{KEY}/{NAME}, {plain}/{NAME}, ISF files below {plain}, {tmp_path / 'missing'} (not there)",
    )


def test_another_build_is_refused_and_the_search_goes_on(tmp_path, pdb, other_pdb):
    put(tmp_path / "a" / NAME, other_pdb)
    put(tmp_path / "b" / NAME, pdb)
    loaded = load(f"{tmp_path / 'a'};{tmp_path / 'b'}")
    assert_found(loaded)
    refused = f"{tmp_path / 'a' / NAME}: found GUID {OTHER_GUID} age 1, expected GUID {GUID} age 1"
    assert loaded.notes == (refused,)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"MZ\x90", "the first bytes"),
        (b"MSCF" + bytes(40), "a compressed file (cabinet)"),
        (b"Microsoft C/C++ program database 2.00\r\n", "a PDB 2.00"),
        (b"{}", "no 'metadata'"),
        (lzma.compress(b"x")[:-3], "damaged compression"),
    ],
)
def test_a_file_that_is_no_symbols_is_refused(tmp_path, content, found):
    loaded = load(put(tmp_path / "file", content))
    assert loaded.sources == ()
    assert found in loaded.notes[0]
    assert all("\n" not in note for note in loaded.notes)


def test_a_compressed_pdb_is_named_with_what_to_do(tmp_path):
    put(tmp_path / NAME / KEY / "ntkrnlmp.pd_", b"MSCF" + bytes(40))
    notes = load(f"srv*{tmp_path}").notes
    assert "found a compressed file (cabinet)" in notes[0]
    assert notes[0].endswith("Hint: unpack it with 'expand ntkrnlmp.pd_ ntkrnlmp.pdb'")


@pytest.mark.parametrize(
    "place",
    [f"ntkrnlmp_10.0_{GUID}-1.json.xz", f"windows/ntkrnlmp.pdb/{GUID.lower()}-1.JSON.XZ", "deep/er/any.json.xz"],
)
def test_an_isf_file_is_found_anywhere_below_a_folder(tmp_path, place):
    put(tmp_path / place, lzma.compress(isf_document()))
    put(tmp_path / "unrelated.json", b"[1, 2]")
    put(tmp_path / f"x-{OTHER_GUID}-1.json", b"damaged, but of another build")
    loaded = load(tmp_path)
    assert_found(loaded, "isf")
    assert loaded.notes == ()
    assert loaded.sources[0].find_address("PoolTrackTable") == BASE + 0x1234


def test_isf_files_of_other_builds_are_not_even_opened(tmp_path):
    put(tmp_path / f"a-{OTHER_GUID}-1.json", b"")
    put(tmp_path / f"b-{GUID}-1.json", b"")
    put(tmp_path / "c.json.gz", b"")
    put(tmp_path / "d.txt", b"")
    listing = folders.list_isf_files(str(tmp_path), GUID)
    assert [Path(path).name[0] for path in listing.named] == ["b"]
    assert [Path(path).name[0] for path in listing.unnamed] == ["c"]


def test_a_damaged_isf_file_of_this_build_is_said(tmp_path):
    put(tmp_path / f"{GUID}-1.json", b"{")
    loaded = load(tmp_path)
    assert loaded.sources == ()
    assert "no JSON" in loaded.notes[0]


def test_a_folder_may_give_both_kinds(tmp_path, pdb):
    put(tmp_path / NAME, pdb)
    put(tmp_path / f"{GUID}-1.json", isf_document())
    loaded = load(tmp_path)
    assert [source.name for source in loaded.sources] == ["pdb", "isf"]


def test_a_huge_folder_is_searched_only_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MAX_FILES", 50)
    for number in range(60):
        put(tmp_path / f"{number:03}.json", b"{}")
    put(tmp_path / f"zz-{GUID}-1.json", isf_document())
    loaded = load(tmp_path)
    assert loaded.sources == ()
    assert f"the first ISF files below {tmp_path}" in loaded.notes[-1]


def test_folders_need_no_network(tmp_path, pdb, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    put(tmp_path / NAME / KEY / NAME, pdb)
    assert_found(load(f"srv*{tmp_path}*https://symbols.example;srv*https://symbols.example"))
    assert load(f"srv*{tmp_path};{tmp_path}", guid=OTHER_GUID).sources == ()


def test_reading_a_dump_without_a_server_does_not_load_the_network_modules():
    script = "import sys, pykdext.symbols.search; sys.exit('urllib.request' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=False).returncode == 0


# ---------------------------------------------------------------- a server


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404, "Not Found")
        else:
            answer(self)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.answers = {}
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, content, path=f"/{NAME}/{KEY}/{NAME}", announced=None):
        def send(handler):
            handler.send_response(200)
            if announced != "nothing":
                handler.send_header("Content-Length", str(len(content) if announced is None else announced))
            handler.end_headers()
            handler.wfile.write(content)

        self.answers[path] = send

    def redirect(self, location, path=f"/{NAME}/{KEY}/{NAME}"):
        def send(handler):
            handler.send_response(302)
            handler.send_header("Location", location)
            handler.end_headers()

        self.answers[path] = send

    def dawdle(self, content, pause_seconds):
        """The content in small pieces, with pauses; the first one before anything."""

        def send(handler):
            self.released.wait(pause_seconds)
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            for start in range(0, len(content), 100):
                handler.wfile.write(content[start : start + 100])
                handler.wfile.flush()
                if self.released.wait(pause_seconds):
                    return

        self.answers[f"/{NAME}/{KEY}/{NAME}"] = send


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()
    thread.join()


def assert_nothing_left(cache, loaded, said):
    assert loaded.sources == ()
    assert said in loaded.notes[0], loaded.notes
    assert all("\n" not in note for note in loaded.notes)
    assert not cache.exists() or files_below(cache) == []


def test_a_download_comes_to_its_place_and_is_asked_for_once(tmp_path, pdb, server):
    server.answer(pdb)
    cache = tmp_path / "new" / "cache"
    path = f"srv*{cache}*{server.url}"
    loaded = load(path)
    assert_found(loaded)
    assert loaded.notes == ()
    assert [name for name in files_below(cache) if name.endswith(("pdb", "partial"))] == [NAME, f"{NAME}/{KEY}/{NAME}"]
    assert (cache / NAME / KEY / NAME).read_bytes() == pdb
    assert server.requests == [f"/{NAME}/{KEY}/{NAME}"]
    assert_found(load(path))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "form", ["cache*{cache};srv*{url}/", "srv*{cache}*{empty}*{url}", "srv*{cache};srv*{cache}*{url}"]
)
def test_where_a_path_may_name_the_cache(tmp_path, pdb, server, form):
    server.answer(pdb)
    cache = tmp_path / "cache"
    assert_found(load(form.format(cache=cache, empty=tmp_path / "empty", url=server.url)))
    assert (cache / NAME / KEY / NAME).read_bytes() == pdb


def test_a_two_tier_cache_stays_one(tmp_path, pdb, server):
    server.answer(pdb)
    put(tmp_path / "index2.txt", b"")
    assert_found(load(f"srv*{tmp_path}*{server.url}"))
    assert (tmp_path / "nt" / NAME / KEY / NAME).is_file()


def test_an_answer_of_unknown_length(tmp_path, pdb, server):
    server.answer(pdb, announced="nothing")
    assert_found(load(f"srv*{tmp_path}*{server.url}"))


def test_a_redirect_is_followed(tmp_path, pdb, server):
    server.redirect(f"{server.url}/blob")
    server.answer(pdb, "/blob")
    assert_found(load(f"srv*{tmp_path}*{server.url}"))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/hostname", "HTTP status 302"),
        ("data:text/plain,x", "HTTP status 302"),
        ("ftp://127.0.0.1/x", "unknown url type: ftp"),
    ],
)
def test_a_redirect_to_something_else_is_not_followed(tmp_path, server, location, said):
    server.redirect(location)
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{server.url}"), said)


def test_redirects_in_a_circle_end(tmp_path, server):
    server.redirect(f"/{NAME}/{KEY}/{NAME}")
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{server.url}"), "HTTP status 302")
    assert len(server.requests) < 20


def test_a_missing_pdb_is_said_with_its_address(tmp_path, server):
    loaded = load(f"srv*{tmp_path / 'c'}*{server.url}")
    url = f"{server.url}/{NAME}/{KEY}/{NAME}"
    assert_nothing_left(tmp_path / "c", loaded, f"{url}: found HTTP status 404 (Not Found), expected the PDB")
    assert loaded.notes[1].endswith(f"looked for {tmp_path / 'c'}/{NAME}/{KEY}/{NAME}, {url}")


def test_a_short_answer_is_refused(tmp_path, pdb, server):
    server.answer(pdb[:-5000], announced=len(pdb))
    said = f"found {len(pdb) - 5000:,} bytes, expected {len(pdb):,} as the server announced"
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{server.url}"), said)


def test_a_cut_pdb_of_unknown_length_is_refused(tmp_path, pdb, server):
    server.answer(pdb[:-5000], announced="nothing")
    said = f"{server.url}/{NAME}/{KEY}/{NAME}: found {len(pdb) - 5000:,} bytes, expected {len(pdb):,}"
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{server.url}"), said)


def test_another_build_from_a_server_is_refused(tmp_path, other_pdb, server):
    server.answer(other_pdb)
    said = f"found GUID {OTHER_GUID} age 1, expected GUID {GUID} age 1"
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{server.url}"), said)


def test_a_page_of_a_proxy_is_refused(tmp_path, server):
    server.answer(b"<html>Please log in</html>")
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{server.url}"), "found the first bytes b'<html>")


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{url}"), "found no usable answer (")


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http://a b/",
        "https://\udcff/",
        "http://127.0.0.1:99999",
        "http://h:99999999999999999999",
    ],
)
def test_an_address_that_is_none(tmp_path, url):
    assert_nothing_left(tmp_path / "c", load(f"srv*{tmp_path / 'c'}*{url}"), "found no usable answer (")


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs")
@ends_soon
def test_a_pipe_with_the_name_of_symbols_is_passed_over(tmp_path, pdb):
    beside, listed = tmp_path / "beside", tmp_path / "isf"
    beside.mkdir()
    listed.mkdir()
    os.mkfifo(beside / NAME)
    os.mkfifo(listed / f"{GUID}-1.json.xz")
    real = put(tmp_path / "real" / NAME, pdb)
    assert "found a pipe, device or folder, expected a PDB or ISF file" in load(beside / NAME).notes[0]
    assert_found(load(f"{beside};{listed};{real.parent}"))


@ends_soon
def test_a_server_that_is_silent_is_given_up(tmp_path, pdb, server):
    server.dawdle(pdb, pause_seconds=600)
    with pytest.raises(SymbolFileError, match="no usable answer \\(timed out\\)"):
        download_pdb(server.url, WANTED, str(tmp_path / "c"), DownloadLimits(silence_seconds=0.3))
    assert not (tmp_path / "c").exists()


@ends_soon
def test_a_server_that_trickles_is_given_up(tmp_path, pdb, server):
    server.dawdle(pdb, pause_seconds=0.05)
    with pytest.raises(SymbolFileError, match=r"bytes in 0\.5 seconds, expected the whole PDB in that time"):
        download_pdb(server.url, WANTED, str(tmp_path / "c"), DownloadLimits(total_seconds=0.5))
    assert not (tmp_path / "c").exists()


@ends_soon
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"], ids=["status line", "headers"])
def test_a_server_that_trickles_the_head_of_its_answer_is_given_up(tmp_path, sent):
    """Each drop comes long before silence is given up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(sent)
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(SymbolFileError, match=r"0 bytes in 0\.5 seconds, expected the whole PDB in that time"):
            download_pdb(url, WANTED, str(tmp_path / "c"), DownloadLimits(silence_seconds=30, total_seconds=0.5))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("announced", "found"), [(None, "[0-9,]+ bytes"), ("nothing", "no end")])
def test_a_pdb_that_is_too_large_is_given_up(tmp_path, pdb, server, announced, found):
    server.answer(pdb, announced=announced)
    with pytest.raises(SymbolFileError, match=f"found {found}, expected at most 1,000"):
        download_pdb(server.url, WANTED, str(tmp_path / "c"), DownloadLimits(size_bytes=1000))
    assert not (tmp_path / "c").exists()


def test_a_server_without_a_cache_is_not_asked(server):
    loaded = load(f"srv*{server.url}")
    assert loaded.sources == ()
    assert loaded.notes[0] == f"{server.url}: found no folder to keep files in, expected srv*FOLDER*{server.url}"
    assert server.requests == []


@pytest.mark.skipif(os.name == "nt", reason="there it is a usual folder")
@pytest.mark.parametrize("cache", [r"C:\Symbols", r"\\server\share"])
def test_a_folder_of_windows_is_not_made_elsewhere(tmp_path, pdb, server, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.answer(pdb)
    assert "found a folder of Windows" in load(f"srv*{cache}*{server.url}").notes[0]
    assert server.requests == files_below(tmp_path) == []


def test_a_cache_that_cannot_be_written(tmp_path, pdb, server):
    server.answer(pdb)
    file = put(tmp_path / "file", b"")
    loaded = load(f"srv*{file}*{server.url}")
    assert loaded.sources == ()
    assert f"{file}: found a folder that cannot be written (" in loaded.notes[0]
    assert files_below(tmp_path) == ["file"]


def test_a_failed_download_leaves_what_was_there(tmp_path, server):
    kept = put(tmp_path / NAME / "other" / NAME, b"kept")
    load(f"srv*{tmp_path}*{server.url}")
    assert files_below(tmp_path) == [NAME, f"{NAME}/other", f"{NAME}/other/{NAME}"]
    assert kept.read_bytes() == b"kept"


def test_a_damaged_file_in_the_cache_is_replaced(tmp_path, pdb, server):
    server.answer(pdb)
    kept = put(tmp_path / NAME / KEY / NAME, pdb[:-4096])
    loaded = load(f"srv*{tmp_path}*{server.url}")
    assert_found(loaded)
    assert "bytes, expected" in loaded.notes[0]
    assert kept.read_bytes() == pdb


def test_the_server_is_asked_only_when_nothing_to_its_left_has_the_symbols(tmp_path, pdb, server):
    server.answer(pdb)
    isf = put(tmp_path / "some.json", isf_document())
    assert_found(load(f"{isf};srv*{tmp_path}*{server.url}"), "isf")
    assert server.requests == []


# ---------------------------------------------------------------- the chain


def test_the_chain_names_who_answers_and_drops_who_is_damaged(tmp_path, pdb):
    whole = bytearray(pdb)
    # The length of the first symbol record: the identity is untouched, so the file is taken at first.
    at = whole.index(b"\x0e\x11") - 2
    whole[at : at + 2] = b"\xff\xff"
    loaded = load(put(tmp_path / "damaged.pdb", bytes(whole)))
    profile = ProfileSymbols(load_profile(GUID, 1), BASE)
    chain = SymbolChain([*loaded.sources, profile])
    assert chain.notes == ()
    located = chain.find("PoolTrackTable")
    assert (located.address, located.source) == (BASE + RVA, "profile")
    assert len(chain.notes) == 1
    assert "damaged.pdb: found a record outside of it" in chain.notes[0]
    assert chain.find_type("_POOL_TRACKER_TABLE") is None  # who is damaged is not asked again
    assert len(chain.notes) == 1

    chain = SymbolChain([*load(put(tmp_path / "whole.pdb", pdb)).sources, profile])
    assert chain.find("PoolTrackTable").source == "pdb"
    assert chain.find("NoSuchVariable") is None
    assert chain.find_type("_POOL_TRACKER_TABLE").size == 0x38
    assert chain.find_type("_NO_SUCH_TYPE") is None
