"""One forged virtual machine for all tests of this room, and its memory in every container."""

from __future__ import annotations

import pytest

from dumps.forge import forge
from dumps.forge.vmfiles import elfcores, kdumps, plain, savedstates, vmware
from pykdext.targets.dump.crashdump import open_crashdump

WRITERS = {
    "raw": plain.save_raw,
    "lime": plain.save_lime,
    "xen": plain.save_xen,
    "vmem": lambda machine, path: (
        vmware.save_vmem(machine, path),
        vmware.save_state(machine, path.with_suffix(".vmsn")),
    ),
    "inline": vmware.save_inline,
    "elf": elfcores.save_core,
    "elf-note": lambda machine, path: elfcores.save_core(machine, path, with_header=True),
    "vbox": elfcores.save_vbox,
    "kdump": kdumps.save_kdump,
    "kdump-plain": lambda machine, path: kdumps.save_kdump(machine, path, flattened=False),
    "vmrs": savedstates.save_state,
    "vmrs-plain": lambda machine, path: savedstates.save_state(machine, path, packed=False),
}

SUFFIXES = {"vmem": ".vmem", "inline": ".vmsn"}


def make_machine(**wishes):
    return forge("pipo", **{"build": 19041, "virtual": True, **wishes})


@pytest.fixture(scope="session")
def machine():
    return make_machine()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="session")
def container(machine, folder):
    """The path of the machine's memory in a container, written once."""

    def find(name):
        path = folder / name / f"machine{SUFFIXES.get(name, '.img')}"
        if not path.exists():
            path.parent.mkdir()
            WRITERS[name](machine, path)
        return path

    return find


@pytest.fixture(scope="session")
def dump_path(machine, folder):
    path = folder / "machine.dmp"
    machine.save(path, kind=5)
    return path


@pytest.fixture
def opened():
    """Opens files, and closes them behind the test."""
    files = []

    def open_it(path, **options):
        files.append(open_crashdump(str(path), **options))
        return files[-1]

    yield open_it
    for file in files:
        file.close()
