"""Small machines of the scenarios of objects, saved and opened; each is made once."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache

from dumps.forge import BUILDS_BY_ARCH, forge
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.targets.dump.crashdump import open_crashdump

EVERY_KERNEL = [(arch, build) for arch, builds in BUILDS_BY_ARCH.items() for build in builds]
SYMBOL_BUILDS = (7601, 9600, 14393, 17763, 19041, 20348, 22000)


@lru_cache(maxsize=8)
def make_machine(scenario, build=19041, arch="x64", leaked=400, pages_lost=False, share=32):
    return forge(scenario, build=build, arch=arch, leaked=leaked, pages_lost=pages_lost, healthy_share=share)


@contextmanager
def open_space(machine, folder, kind=6):
    path = folder / "objects.dmp"
    machine.save(path, kind=kind)
    target = open_crashdump(str(path))
    try:
        yield ObjectSpace(open_kernel(target))
    finally:
        target.close()
