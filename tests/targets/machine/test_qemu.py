"""QEMU itself as the writer: one paused machine as raw image, ELF core and kdump, which must agree page for page."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time

import pytest

from pykdext.errors import DumpFormatError
from pykdext.targets.dump.compressed import open_file
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.machine.containers import open_machine_image

QEMU = shutil.which("qemu-system-x86_64")
MEMORY_BYTES = 96 << 20
PAGE = 0x1000
TABLE = 0x9000
PATTERN = 0x1122334455660000

pytestmark = pytest.mark.skipif(QEMU is None, reason="QEMU is not installed: tests/setup.sh installs it")


def boot_sector():
    """Code that makes page tables at 9000h, which name themselves, enters long mode, and fills the second megabyte."""
    real = bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc007c fc bf0090 b90030 f3aa")
    for at, entry in ((0x9000, 0xA003), (0xA000, 0xB003), (0xB000, 0x83), (0x9F68, TABLE | 0x63)):
        real += b"\x66\xc7\x06" + struct.pack("<HI", at, entry)
    real += bytes.fromhex("66b8a0000000 0f22e0 66b800900000 0f22d8")  # CR4: PAE, PGE; CR3
    real += bytes.fromhex("66b9800000c0 0f32 660d00010000 0f30")  # EFER: long mode
    real += bytes.fromhex("66b801000080 0f22c0")  # CR0: paging and protection at once
    after = len(real) + 5 + 5
    long = b"\xbf" + struct.pack("<I", 0x100000) + b"\xb9" + struct.pack("<I", 0x20000)
    long += b"\x48\xb8" + struct.pack("<Q", PATTERN) + bytes.fromhex("48ab 48ffc0 e2f9 f4 ebfd")
    table = 0x7C00 + after + len(long)
    real += b"\x0f\x01\x16" + struct.pack("<H", table + 24) + b"\xea" + struct.pack("<HH", 0x7C00 + after, 8)
    descriptors = struct.pack("<QQQHI", 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF, 23, table)
    return (real + long + descriptors).ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The machine's memory in every form, from one moment."""
    folder = tmp_path_factory.mktemp("qemu")
    (folder / "boot.img").write_bytes(boot_sector())
    command = [QEMU, "-accel", "tcg", "-m", "96", "-nodefaults", "-display", "none", "-monitor", "stdio"]
    command += ["-drive", f"file={folder / 'boot.img'},format=raw"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as qemu:
        state = ""
        for _ in range(600):
            qemu.stdin.write("info registers\n")
            qemu.stdin.flush()
            while not (line := qemu.stdout.readline()).startswith("EFER"):
                state = line if line.startswith("CR0") else state
            if f"CR3={TABLE:016x}" in state and _is_filled(qemu):
                break
            time.sleep(0.1)  # a loaded machine may take a while to start its own
        qemu.stdin.write(
            f'stop\npmemsave 0 {MEMORY_BYTES} "{folder / "memory.raw"}"\n'
            f"dump-guest-memory {folder / 'core.elf'}\n"
            f"dump-guest-memory -z {folder / 'core.kdump'}\ndump-guest-memory -p {folder / 'paged.elf'}\n"
            f'migrate "exec:cat > {folder / "stream"}"\nquit\n'
        )
        qemu.stdin.flush()
        qemu.communicate(timeout=120)
    return folder


def _is_filled(qemu):
    """Whether the last word of the second megabyte is there."""
    qemu.stdin.write("xp /1gx 0x1ffff8\n")
    qemu.stdin.flush()
    while not (line := qemu.stdout.readline()).startswith("00000000001ffff8"):
        pass
    return f"{PATTERN + 0x1FFFF:#018x}" in line


@pytest.fixture(scope="module")
def raw(files):
    return (files / "memory.raw").read_bytes()


@pytest.fixture(scope="module", params=["core.elf", "core.kdump"])
def image(request, files):
    with open_file(str(files / request.param)) as file:
        yield open_machine_image(file)


def test_the_machine_did_what_its_boot_sector_says(raw):
    assert len(raw) == MEMORY_BYTES
    assert raw[0x100000:0x100010] == struct.pack("<QQ", PATTERN, PATTERN + 1)
    assert raw[TABLE : TABLE + 8] == struct.pack("<Q", 0xA023)


def test_every_page_agrees_with_the_raw_image(image, raw):
    holes = 0
    for at in range(0, MEMORY_BYTES, PAGE):
        found = image.memory.read_physical(at, PAGE)
        if found != raw[at : at + PAGE]:
            holes += not 0xA0000 <= at < 0x100000  # device memory: QEMU's views of it differ
    assert not holes
    parts = list(image.memory.read_present_physical(0x100000, MEMORY_BYTES - 0x100000))
    assert b"".join(data for _, data in parts) == raw[0x100000:]


def test_registers_are_those_of_the_machine(image):
    (cpu,) = image.processors
    assert cpu.cr3 == TABLE
    assert cpu.cr4 == 0xA0
    assert 0x7C00 <= cpu.rip < 0x7E00


def test_a_core_with_paging_reads_the_same(files, raw):
    with open_file(str(files / "paged.elf")) as file:
        memory = open_machine_image(file).memory
        assert memory.read_physical(0x100000, 0x10000) == raw[0x100000:0x110000]


@pytest.mark.parametrize("name", ["core.elf", "core.kdump", "memory.raw"])
def test_it_runs_no_windows_and_that_is_said(files, name):
    with pytest.raises(DumpFormatError, match="without a Windows kernel"):
        open_crashdump(str(files / name))


def test_a_migration_stream_is_told_from_memory(files):
    with pytest.raises(DumpFormatError, match="QEMU migration stream"):
        open_crashdump(str(files / "stream"))
