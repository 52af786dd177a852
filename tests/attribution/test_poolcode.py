"""nt's own pool routines lead to the variables of the pool: compiled code, three architectures, three levels."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dumps.forge.architectures import ARCHITECTURES
from dumps.forge.kernelcode.link import LEVELS
from dumps.forge.kernels import disguise_kernel
from dumps.forge.ntimage import build_nt
from dumps.forge.privatekernels import choose_kernel
from pykdext.attribution import poolcode
from pykdext.images.image import read_image
from pykdext.model import Machine, Module
from tests.helpers.segments import SegmentsTarget

MACHINES = {"x64": Machine.X64, "x86": Machine.X86, "arm64": Machine.ARM64}
BUILDS = {"x64": 22000, "x86": 19041, "arm64": 22000}
USED = (
    "ExPoolTagTables",
    "PoolTrackTable",
    "PoolTrackTableMask",
    "PoolTrackTableSize",
    "PoolTrackTableExpansion",
    "PoolTrackTableExpansionSize",
    "PoolBigPageTable",
    "PoolBigPageTableSize",
    "ExpPoolBigEntriesInUse",
    "MmSizeOfPagedPoolInBytes",
)


def forged_nt(arch, level, *, without=()):
    """The image of a kernel that nobody knows; ``without``: pages of it, by what is on them, that are not there."""
    chance = random.Random(f"{arch} {level}")
    kernel = disguise_kernel(choose_kernel(BUILDS[arch], ARCHITECTURES[arch], chance), chance)
    kernel = replace(kernel, pool_code=level)
    image = build_nt(kernel, ())
    pages = {}
    for rva, data in image.pieces:
        for at, byte in enumerate(data, rva):
            pages.setdefault(at & -0x1000, bytearray(0x1000))[at & 0xFFF] = byte
    for rva in without:
        pages.pop(rva & -0x1000, None)
    base = kernel.base
    target = SegmentsTarget(
        {base + rva: bytes(page) for rva, page in pages.items()},
        machine=MACHINES[arch],
    )
    return kernel, read_image(target, Module("ntoskrnl.exe", base, image.size))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("arch", MACHINES)
def test_the_routines_lead_to_all_variables_and_to_no_other(arch, level):
    kernel, nt = forged_nt(arch, level)
    found = poolcode.find_pool_variables(nt)
    assert found == {kernel.base + kernel.variables[name] for name in USED}


@pytest.mark.parametrize("arch", MACHINES)
def test_code_that_is_not_there_leads_nowhere(arch):
    kernel, _ = forged_nt(arch, "O2")
    entries = [rva for name, rva in kernel.functions.items() if name in poolcode.EXPORTED_ROUTINES]
    _, nt = forged_nt(arch, "O2", without=entries)
    assert poolcode.find_pool_variables(nt) == frozenset()


def test_a_kernel_without_such_code_leads_nowhere():
    _, nt = forged_nt("x64", "")
    assert poolcode.find_pool_variables(nt) == frozenset()
