"""Files of other kinds: logs, tag lists, snapshots, driver images, symbols, stores, and servers of symbols."""

from __future__ import annotations

import gzip
import http.server
import json
import sqlite3
import threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from dumps.forge import forge
from dumps.forge.poolmonlogs import iter_logs
from tests.conftest import PROJECT
from tests.fuzz.cases import Case
from tests.fuzz.damage import ANYHOW, IN_PLACE, damage, damage_text
from tests.helpers import recordwriters
from tests.pdbs import read_pdb

DRIVERS = sorted((PROJECT / "dumps" / "drivers" / "images").rglob("*.sys"))
PDBS = ("shapes-x64", "shapes-x86", "idioms-O2-x64", "methods-x64")
KERNEL_PDB = "10.0.19041.804"

_POOLUSED = b""" Sorting by NonPaged Pool Consumed

               NonPaged                  Paged
 Tag     Allocs         Used     Allocs         Used
 Pipo   4812345   2078933040          0            0	UNKNOWN pooltag 'Pipo', please update pooltag.txt
 Irp       1200      1228800          0            0	Io, IRP packets
 MmSt         0            0       9000     36864000	Mm section object prototype ptes , Binary: nt!mm
TOTAL   4813545   2080161840       9000     36864000
"""
_VM = b"""Physical Memory:     4193758 (   16775032 Kb)
NonPagedPool Usage:  1024 ( 4096 Kb)
PagedPool Usage:     2048 ( 8192 Kb)
Committed pages:     900000 ( 3600000 Kb)
Commit limit:        5000000 ( 20000000 Kb)
"""


@lru_cache(maxsize=1)
def poolmon_logs():
    return [(name, text.encode()) for name, text in iter_logs()]


def make_log(chance):
    """A log of one of the forms, whole."""
    form = chance.choice(("poolmon", "poolmon", "layout", "poolused", "vm", "csv", "snapshot"))
    name, text = chance.choice(poolmon_logs())
    if form == "poolmon":
        return name, text
    rows = [
        recordwriters.Row(tag, chance.choice(("Nonp", "Paged")), 10**n, 10 ** (n - 1), 4096 * n)
        for n, tag in enumerate((b"Pipo", b"Irp ", b"\x80\xffxy", b"=cmd", b" a b"), 1)
    ]
    if form == "layout":
        write = recordwriters.LAYOUTS[chance.choice(sorted(recordwriters.LAYOUTS))]
        return "log.txt", recordwriters.HEAD + recordwriters.TITLES + b"\n".join(map(write, rows))
    if form == "poolused":
        return "poolused.txt", _POOLUSED
    if form == "vm":
        return "vm.txt", _VM
    if form == "csv":
        lines = [b"Tag,Type,Allocs,Frees,Diff,Bytes"]
        lines += [b",".join([row.tag, row.pool.encode(), *(b"%d" % number for number in row.counts)]) for row in rows]
        return "tags.csv", b"\r\n".join(lines)
    return "state.json", make_snapshot()


@lru_cache(maxsize=1)
def make_snapshot():
    """A snapshot as the tool writes it: of a forged dump."""
    import tempfile

    from pykdext.cli.main import main

    with tempfile.TemporaryDirectory() as folder:
        forge("pipo").save(Path(folder, "x.dmp"))
        assert main(["snapshot", f"{folder}/x.dmp", "-o", f"{folder}/x.json"]) == 0
        return Path(folder, "x.json").read_bytes()


def logs(chance, folder):
    """A log of any form, damaged by bytes, lines, numbers or columns; perhaps packed."""
    name, text = make_log(chance)
    path = folder / name
    data = damage_text(text, chance)
    if chance.random() < 0.1:
        path = folder / f"{name}.gz"
        data = gzip.compress(data)
    path.write_bytes(data)
    other = folder / "other.txt"
    other.write_bytes(poolmon_logs()[0][1])
    words = str(path)
    commands = [
        ["used", words],
        ["analyze", words, "--format", chance.choice(("text", "json", "csv"))],
        ["diff", str(other), words],
        ["trend", str(folder), "--every", "1h", "--format", chance.choice(("text", "json", "csv"))],
    ]
    return Case(f"log {name}", chance.sample(commands, 2))


def series(chance, folder):
    """Many logs, some of them damaged, of which a series is made."""
    for name, text in poolmon_logs()[:12]:
        (folder / name).write_bytes(damage_text(text, chance) if chance.random() < 0.4 else text)
    return Case(
        "series", [["trend", str(folder / "**" / "*.txt"), *(("--every", "15m") if chance.random() < 0.5 else ())]]
    )


def tag_lists(chance, folder):
    """A pooltag.txt of the user."""
    text = b"rem a list\n" + b"".join(
        b"%b - %b - %b\n" % (tag, module, words)
        for tag, module, words in ((b"Pipo", b"pippo.sys", b"Pippo's"), (b"I*", b"nt!io", b"Io"), (b"Mm??", b"nt", b""))
    )
    path = folder / "pooltag.txt"
    path.write_bytes(damage_text(text * 20, chance))
    log = folder / "log.txt"
    log.write_bytes(poolmon_logs()[-1][1])
    return Case(
        "tag list",
        [["find", "Pipo", "--explain", "--pooltags", str(path)], ["analyze", str(log), "--pooltags", str(path)]],
    )


def driver_files(chance, folder):
    """Images on disk: headers, tables of unwind data, resources, imports, code."""
    for source in chance.sample(DRIVERS, 3):
        data = bytearray(source.read_bytes())
        stop = chance.choice((0x40, 0x400, 0x1000, len(data)))
        how = damage(data, chance, ANYHOW if stop == len(data) else IN_PLACE, 0, stop)
        (folder / source.name).write_bytes(data)
    return Case(
        f"driver files, {how}", [["find", "Pipo", "Dupl", "--images", str(folder), "--jobs", "1", "--format", "json"]]
    )


def symbols_case(chance, folder, edit, name):
    """A dump, and along the symbol path the PDB of ``name`` as its kernel's, damaged by ``edit``."""
    from tests.pdbs import restamp

    machine = forge("pipo", build=19041, known_kernel=False, seed=chance.randrange(4))
    machine.save(folder / "x.dmp")
    data = bytearray(restamp(read_pdb(name), machine.truth.kernel_guid))
    how = edit(data)
    key = f"{machine.truth.kernel_guid.replace('-', '').upper()}1"
    place = folder / "store" / "ntkrnlmp.pdb" / key
    place.mkdir(parents=True)
    (place / "ntkrnlmp.pdb").write_bytes(data)
    return Case(f"PDB, {how}", [["used", str(folder / "x.dmp"), "--symbols", str(folder / "store")]])


def pdb_files(chance, folder):
    """PDBs in a store along the symbol path, the kernel's and others, damaged anywhere."""

    def edit(data):
        stop = chance.choice((0x100, 0x2000, len(data)))
        return damage(data, chance, ANYHOW if stop == len(data) else IN_PLACE, 0, stop)

    return symbols_case(chance, folder, edit, chance.choice((KERNEL_PDB, *PDBS)))


def isf_files(chance, folder):
    """Symbols in volatility's form."""
    document = {
        "metadata": {"format": "6.2.0", "windows": {"pdb": {"GUID": "0" * 32, "age": 1, "database": "ntkrnlmp.pdb"}}},
        "symbols": {"PoolTrackTable": {"address": 0xC168A8}, "PsLoadedModuleList": {"address": 0xC2A310}},
        "user_types": {"_POOL_TRACKER_TABLE": {"size": 80, "fields": {"Key": {"offset": 0, "type": {"name": "long"}}}}},
        "base_types": {},
        "enums": {},
    }
    machine = forge("pipo", build=19041, known_kernel=False)
    machine.save(folder / "x.dmp")
    document["metadata"]["windows"]["pdb"]["GUID"] = machine.truth.kernel_guid.replace("-", "").upper()
    path = folder / "ntkrnlmp.json"
    path.write_bytes(damage_text(json.dumps(document, indent=1).encode(), chance))
    return Case("ISF", [["used", str(folder / "x.dmp"), "--symbols", str(folder)]])


@lru_cache(maxsize=1)
def make_store():
    """A store as batches write it."""
    import tempfile

    from pykdext.fleet.worker import analyze_dump
    from pykdext.model.fleet import DumpInput, Task
    from pykdext.store.batches import open_store

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.sqlite")
        for number in range(2):
            forge("pipo", seed=number).save(Path(folder, f"{number}.dmp"))
            answer = analyze_dump(Task(f"{folder}/{number}.dmp", 60.0))
            with open_store(str(path)) as store:
                store.save(DumpInput(f"{number}.dmp", f"/{number}.dmp", "1"), f"SRV0{number}", answer)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
        return path.read_bytes()


def stores(chance, folder):
    """A store whose file or whose contents are damaged."""
    path = folder / "x.sqlite"
    path.write_bytes(make_store())
    if chance.random() < 0.5:
        data = bytearray(path.read_bytes())
        how = damage(data, chance, ANYHOW, chance.choice((0, 0, 4096)), chance.choice((100, len(data))))
        path.write_bytes(data)
    else:
        connection = sqlite3.connect(path)
        table, column = chance.choice(
            (("snapshots", "report"), ("snapshots", "state"), ("snapshots", "taken_at"), ("snapshots", "status"),
             ("tags", "tag"), ("tags", "pool"), ("tags", "bytes"), ("hosts", "name"), ("drivers", "version"))
        )  # fmt: skip
        value = chance.choice((None, b"\xff\xfe", "", "{", "[]", -1, 1 << 62, 1.5, "9" * 400, "\x1b[31m\u202e"))
        how = f"{table}.{column} = {value!r:.20}"
        try:
            connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
            connection.commit()
        except sqlite3.Error as error:
            how = str(error)
        connection.close()
    commands = [
        ["history", "--store", str(path)],
        ["history", "Pipo", "--store", str(path), "--format", "json"],
        ["used", f"{path}::SRV00"],
        ["trend", f"{path}::SRV01", "--format", "json"],
    ]
    return Case(f"store, {how}", chance.sample(commands, 2))


class _Hostile(http.server.BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self):
        self.close_connection = True
        self.wfile.write(self.answer)

    def log_message(self, *_):
        """Quiet."""


@contextmanager
def serving(answer):
    """A server that gives everybody these bytes, head and all; its address."""
    handler = type("Handler", (_Hostile,), {"answer": answer})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def symbol_servers(chance, folder):
    """A server of symbols whose answer is damaged anywhere, from the status line to the last stream."""
    machine = forge("pipo", build=19041, known_kernel=False)
    machine.save(folder / "x.dmp")
    body = read_pdb(chance.choice(PDBS))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = bytearray(head + body)
    how = damage(answer, chance, ANYHOW, 0, chance.choice((20, len(head), len(answer))))
    cache = folder / "cache"
    commands = [["used", str(folder / "x.dmp"), "--symbols", f"srv*{cache}*SERVER"]]
    case = Case(f"symbol server, {how}", commands)
    case.answer = bytes(answer)
    return case
