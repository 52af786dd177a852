"""Default tags of framework drivers: made of a service's name, read from a started driver, guessed from a file."""

from __future__ import annotations

import struct

import pytest

from dumps.drivers.build import IMAGES
from dumps.forge import forge
from pykdext.attribution.calls.kmdf import find_framework_table
from pykdext.attribution.frameworkdrivers import FrameworkAttributor, derive_tag, read_driver_globals
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.kernel.kernel import open_kernel
from pykdext.model import Confidence, PoolTag
from pykdext.targets.dump.crashdump import open_crashdump

MACHINES = [("x64", 19041, "x64"), ("x86pae", 17763, "x86"), ("arm64", 22000, "arm64")]
DRIVER = "framed-O2.sys"


@pytest.mark.parametrize(
    ("service", "tag"),
    [
        ("amdacp", b"amda"),
        ("amda", b"amda"),
        ("ACPIex", b"ACPI"),
        ("WdfPing", b"Ping"),
        ("wdfusb", b"usb\0"),
        ("abc", b"abc\0"),
        ("Wdf01000", b"0100"),
        ("ab", b"FxDr"),
        ("WDFab", b"FxDr"),
        ("WDF", b"FxDr"),
        ("", b"FxDr"),
    ],
)
def test_the_tag_that_the_framework_makes(service, tag):
    assert derive_tag(service) == PoolTag(tag)


@pytest.fixture(params=MACHINES, ids=lambda param: param[0])
def started(request, tmp_path):
    """A function: the attributor over a machine with a framework driver whose globals hold these values."""
    arch, build, family = request.param
    opened = []

    def start(service=None, tag=0, *, handle=0x1234, displaces=0, junk=b""):
        machine = forge("quiet", build=build, arch=arch, drivers=[IMAGES / family / DRIVER])
        if service is not None:
            _write_globals(machine, family, service, tag, handle, displaces, junk)
        machine.save(tmp_path / "m.dmp")
        target = open_crashdump(str(tmp_path / "m.dmp"))
        opened.append(target)
        return FrameworkAttributor(target, open_kernel(target).images)

    yield start
    for target in opened:
        target.close()


def _write_globals(machine, family, service, tag, handle, displaces, junk):
    """Put the globals into a block of another driver's, and the pointer to them beside that to the functions."""
    with open_image_file(str(IMAGES / family / DRIVER)) as target:
        table = find_framework_table(read_image(target, target.modules()[0]))
    block = machine.truth.blocks[b"Glob"][0].va + 0x40
    pointer = 4 if family == "x86" else 8
    name = (service + b"\0" + junk).ljust(32, b"\0")
    driver = handle.to_bytes(pointer, "little")
    machine.write_virtual(block, driver + struct.pack("<II32sB", 5, tag, name, displaces))
    variable = machine.addresses[f"module:{DRIVER}"] + table.rva + pointer
    machine.write_virtual(variable, block.to_bytes(pointer, "little"))


def key(tag):
    return int.from_bytes(tag, "little")


def found(attributor, tag):
    return [(item.module, item.confidence) for item in attributor.evidence(PoolTag(tag))]


LIKELY, POSSIBLE = (DRIVER, Confidence.LIKELY), (DRIVER, Confidence.POSSIBLE)


def test_a_started_driver_tells_its_tag(started):
    attributor = started(b"amdacp", key(b"amda"))
    assert found(attributor, b"amda") == [LIKELY]
    assert "service 'amdacp'" in next(attributor.evidence(PoolTag(b"amda"))).detail
    assert found(attributor, b"fram") == []  # the file's name is not asked
    assert found(attributor, b"AMDA") == []


def test_the_drivers_own_tag_is_in_its_globals_too(started):
    assert found(started(b"amdacp", key(b"Mine")), b"Mine") == [LIKELY]


def test_a_service_with_a_short_name_has_the_frameworks_tag(started):
    assert found(started(b"ab"), b"FxDr") == [LIKELY]


@pytest.mark.parametrize(
    "members",
    [
        {"service": b"amdacp", "tag": 0},
        {"service": b"amdacp", "tag": 0x01020304},
        {"service": b"amdacp", "tag": key(b"amda"), "handle": 0},
        {"service": b"amdacp", "tag": key(b"amda"), "displaces": 2},
        {"service": b"amdacp", "tag": key(b"amda"), "junk": b"x"},
        {"service": b"am\x01", "tag": key(b"amda")},
        {"service": b"\xe4mda", "tag": key(b"amda")},
        {"service": b"", "tag": key(b"amda")},
        {"service": b"a" * 32, "tag": key(b"aaaa"), "displaces": 0xFF},
    ],
    ids=str,
)
def test_what_is_no_globals_is_not_believed(started, members):
    attributor = started(**members)
    assert found(attributor, b"amda") == found(attributor, b"aaaa") == []
    assert found(attributor, b"fram") == [LIKELY]


def test_without_globals_the_files_name_is_a_guess(started):
    attributor = started()
    assert found(attributor, b"fram") == [LIKELY]
    assert found(attributor, b"FRAM") == [POSSIBLE]
    assert found(attributor, b"Glob") == found(attributor, b"FxDr") == []


class Recording:
    """A target that remembers what was read of its images."""

    def __init__(self, target):
        self._target = target
        self.read = set()

    def __getattr__(self, name):
        return getattr(self._target, name)

    def read_present(self, address, size):
        self.read.update(range(address, address + size, 0x1000))
        return self._target.read_present(address, size)


def test_drivers_whose_imports_are_others_are_not_searched(tmp_path):
    machine = forge("quiet", drivers=[IMAGES / "x64" / DRIVER])
    machine.save(tmp_path / "m.dmp")
    with open_crashdump(str(tmp_path / "m.dmp")) as dump:
        target = Recording(dump)
        images = [read_image(target, module) for module in dump.modules() if not module.unloaded]
        assert found(FrameworkAttributor(target, images), b"fram") == [LIKELY]
    data = {name: machine.addresses[f"module:{name}"] + 0x3000 for name in (DRIVER, "ctxreg.sys", "Ntfs.sys")}
    assert {name for name, address in data.items() if address in target.read} == {DRIVER}


@pytest.mark.parametrize("family", ["x64", "x86", "arm64"])
def test_a_driver_file_has_only_its_name(family):
    with open_image_file(str(IMAGES / family / DRIVER)) as target:
        image = read_image(target, target.modules()[0])
        assert read_driver_globals(target, image, find_framework_table(image)) is None
        assert found(FrameworkAttributor(target, [image]), b"fram") == [LIKELY]


def test_a_driver_without_the_framework_has_no_default_tag():
    with open_image_file(str(IMAGES / "x64" / "pippo.sys")) as target:
        image = read_image(target, target.modules()[0])
        assert found(FrameworkAttributor(target, [image]), b"pipp") == []
