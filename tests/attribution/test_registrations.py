"""Structures in data that carry a tag: the sample drivers' own, written by hand, and what only looks like them."""

from __future__ import annotations

import struct

import pytest

from dumps.drivers.build import IMAGES
from pykdext.attribution.registrations import MAX_CONTEXTS, describe_registration
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Confidence, Machine, Module, PoolTag
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import CODE, CONSTANTS, PAGE, VARIABLES, make_image

PIPO = PoolTag(b"Pipo")
KEY = int.from_bytes(b"Pipo", "little")
BASES = {Machine.X64: 0xFFFFF80412340000, Machine.ARM64: 0xFFFFF80412340000, Machine.X86: 0x8B340000}
CODES = {Machine.X64: 0x8664, Machine.ARM64: 0xAA64, Machine.X86: 0x14C}
DATA_RVA = 2 * PAGE
FLINK = {8: 0xFFFFF80000C01230, 4: 0x80C01230}

every_machine = pytest.mark.parametrize("machine", list(Machine))


def describe(data, machine=Machine.X64, offset=None, characteristics=CONSTANTS):
    """What is said of the first tag in ``data``, which follows a page of code."""
    memory = make_image(
        (b".text", bytes(PAGE), CODE), (b".data", data.ljust(PAGE, b"\0"), characteristics), machine=CODES[machine]
    )
    base = BASES[machine]
    target = SegmentsTarget({base: memory}, machine=machine)
    image = read_image(target, Module("made.sys", base, len(memory)))
    assert image.has_headers
    return describe_registration(image, PIPO, DATA_RVA + (data.index(b"Pipo") if offset is None else offset))


def context(machine, kind=0x10, flags=0, cleanup=None, size=0x30, allocate=0, free=0, reserved=0):
    routine = BASES[machine] + PAGE + 0x40 if cleanup is None else cleanup
    layout = "<HHIIIIII" if machine is Machine.X86 else "<HH4xQQI4xQQQ"
    return struct.pack(layout, kind, flags, routine, size, KEY, allocate, free, reserved)


def contexts(machine, **members):
    return context(machine, **members) + struct.pack("<H", 0xFFFF).ljust(0x38, b"\0")


def lookaside(machine, depth=4, maximum=256, pool_type=0x200, size=0xC0, routine=None, link=None):
    pointer = machine.pointer_size
    link = FLINK[pointer] if link is None else link
    routine = link + 0x400 if routine is None else routine
    head = bytes(2 * pointer) + struct.pack("<HH4I", depth, maximum, 9, 3, 8, 2)
    return head + struct.pack(f"<III4{'QI'[pointer == 4]}", pool_type, KEY, size, routine, routine, link, link)


@every_machine
def test_context_of_a_minifilter(machine):
    found = describe(contexts(machine), machine)
    assert (found.kind, found.confidence, found.module, found.tag) == (
        "registration",
        Confidence.LIKELY,
        "made.sys",
        PIPO,
    )
    assert "stream handle contexts of 48 bytes" in found.detail
    assert found.rva == DATA_RVA + contexts(machine).index(b"Pipo")


@every_machine
def test_every_row_of_the_array_counts(machine):
    rows = context(machine, kind=1).replace(b"Pipo", b"Else") * 2 + contexts(machine, kind=0x40, cleanup=0)
    assert "section contexts" in describe(rows, machine).detail


@every_machine
def test_contexts_of_variable_size(machine):
    size = 0xFFFFFFFF if machine is Machine.X86 else (1 << 64) - 1
    assert "of any size" in describe(contexts(machine, size=size), machine).detail


@every_machine
@pytest.mark.parametrize(
    "members",
    [
        {"kind": 0x80},
        {"kind": 0},
        {"kind": 3},
        {"flags": 2},
        {"size": 1 << 21},
        {"cleanup": 0x1234},
        {"cleanup": "data"},
        {"allocate": 0x80000000},
        {"free": 1},
        {"reserved": 1},
    ],
    ids=str,
)
def test_values_that_no_registration_has(machine, members):
    if members.get("cleanup") == "data":
        members = {"cleanup": BASES[machine] + DATA_RVA}
    assert describe(contexts(machine, **members), machine) is None


@every_machine
def test_an_array_must_end(machine):
    assert describe(context(machine) + context(machine, kind=0x99), machine) is None
    assert describe(context(machine), machine) is None  # zeros behind it
    assert describe(context(machine) * (MAX_CONTEXTS + 1) + contexts(machine), machine) is None


def test_structures_are_aligned():
    assert describe(bytes(4) + contexts(Machine.X64)) is None
    assert describe(bytes(2) + contexts(Machine.X86), Machine.X86) is None
    assert describe(bytes(8) + lookaside(Machine.X64)) is None
    assert describe(bytes(4) + lookaside(Machine.X86), Machine.X86) is None


@every_machine
def test_lookaside_list_in_a_variable(machine):
    found = describe(lookaside(machine), machine, characteristics=VARIABLES)
    assert found.kind == "registration"
    assert "lookaside list of blocks of 192 bytes" in found.detail


@every_machine
@pytest.mark.parametrize(
    "members",
    [
        {"depth": 0},
        {"depth": 300},
        {"maximum": 0x2000},
        {"pool_type": 0x400},
        {"size": 0},
        {"size": 2 << 20},
        {"routine": 0},
        {"link": 0x7FFF0000},
        {"link": 3},
    ],
    ids=str,
)
def test_values_that_no_lookaside_list_has(machine, members):
    if members == {"link": 3}:
        members = {"link": FLINK[machine.pointer_size] + 3}
    assert describe(lookaside(machine, **members), machine) is None


def list_pool(kind=0x80, revision=1, size=0x10, protocol=0, allocates=1, context_bytes=0x20, data=0x600):
    return struct.pack("<BBHBBHII", kind, revision, size, protocol, allocates, context_bytes, KEY, data)


@every_machine
def test_parameters_of_ndis_pools(machine):
    assert describe(list_pool(), machine).detail.endswith("NET_BUFFER_LIST_POOL_PARAMETERS")
    buffers = struct.pack("<BBHII", 0x80, 1, 0xC, KEY, 0x600)
    assert describe(buffers, machine).detail.endswith("NET_BUFFER_POOL_PARAMETERS")


@pytest.mark.parametrize(
    "members",
    [
        {"kind": 0x81},
        {"revision": 0},
        {"revision": 3},
        {"size": 0xC},
        {"size": 0x40},
        {"protocol": 0x10},
        {"allocates": 2},
        {"context_bytes": 3},
        {"data": 2 << 20},
    ],
    ids=str,
)
def test_values_that_no_ndis_pool_has(members):
    assert describe(list_pool(**members)) is None


def framework_config(machine, size=None, routine=None, flags=0):
    routine = BASES[machine] + PAGE + 0x80 if routine is None else routine
    if machine is Machine.X86:
        return struct.pack("<IIIII", size or 0x14, routine, 0, flags, KEY)
    return struct.pack("<I4xQQII", size or 0x20, routine, 0, flags, KEY)


@every_machine
def test_configuration_of_a_framework_driver(machine):
    assert "WDF_DRIVER_CONFIG" in describe(framework_config(machine), machine).detail
    assert describe(framework_config(machine, size=0x24), machine) is None
    assert describe(framework_config(machine, flags=0x100), machine) is None
    assert describe(framework_config(machine, routine=0), machine) is None
    assert describe(framework_config(machine, routine=BASES[machine]), machine) is None


def test_a_variable_or_a_text_is_no_structure():
    assert describe(b"Pipo") is None
    assert describe(struct.pack("<QQ", 1, 2) + b"Pipo" + bytes(4)) is None
    assert describe(b"tag Pipo is ours", offset=4) is None
    assert describe(bytes(0xFFC) + b"Pipo") is None  # the end of what is in memory


SAMPLES = [
    ("ctxreg", b"Ctxr", "stream handle contexts of"),
    ("ports-O2", b"Ftch", "stream handle contexts of 48"),
    ("ports-Os", b"Ftch", "stream handle contexts of 48"),
    ("ports-Os", b"Ftcs", "stream contexts of 128"),
    ("ports-O2", b"Nblv", "NET_BUFFER_LIST_POOL_PARAMETERS"),
]


@pytest.mark.parametrize("architecture", ["x64", "x86", "arm64"])
@pytest.mark.parametrize(("driver", "tag", "words"), SAMPLES)
def test_structures_that_compilers_make(architecture, driver, tag, words):
    with open_image_file(str(IMAGES / architecture / f"{driver}.sys")) as target:
        image = read_image(target, target.modules()[0])
        found = [
            describe_registration(image, PoolTag(tag), rva + piece.index(tag))
            for section in image.sections
            if not section.executable
            for rva, piece in image.iter_present(section)
            if tag in piece
        ]
    assert [words in item.detail for item in found] == [True]
