"""Paths of keys on damaged memory: walks end; a layout that is not the kernel's own is believed only to the root."""

from __future__ import annotations

import pytest

from dumps.forge import forge
from pykdext.kernel.objects.bodyreader import BodyReader
from pykdext.kernel.objects.keypaths import KeyPathReader
from tests.helpers.objectmachines import open_space

PATH = "\\REGISTRY\\MACHINE\\SOFTWARE\\Contoso\\Policies"
KERNELS = {("x64", 19041): (0x10, 0x48, 0x50, 8), ("x86pae", 19041): (8, 0x24, 0x28, 4)}  # header, parent, name, width


def paths_of(machine, folder):
    """The paths of the control blocks in the order in which the forge wrote them: from the root to the key."""
    header = 2 * machine.kernel.architecture.pointer_bytes
    blocks = [block.va + header for block in machine.truth.blocks[b"CMkb"]][-5:]
    with open_space(machine, folder) as space:
        keys = KeyPathReader(BodyReader(space.kernel, space.pages))
        return [keys.find(block) for block in reversed(blocks)]


@pytest.fixture(params=KERNELS, ids=lambda key: key[0])
def machine(request):
    arch, build = request.param
    made = forge("keys", build=build, arch=arch, leaked=10, healthy_share=64)
    made.places = KERNELS[request.param]
    made.keys = [block.va + made.places[0] for block in made.truth.blocks[b"CMkb"]][-5:]
    return made


def put(machine, address, value):
    machine.write_virtual(address, value.to_bytes(machine.places[3], "little"))


def test_every_key_of_a_path(machine, tmp_path):
    parts = PATH.split("\\")
    assert paths_of(machine, tmp_path) == ["\\".join(parts[:count]) for count in range(6, 1, -1)]


def test_parents_that_form_a_ring(machine, tmp_path):
    put(machine, machine.keys[0] + machine.places[1], machine.keys[-1])
    found = paths_of(machine, tmp_path)
    is_own = machine.places[3] == 8
    assert found[0] == (PATH[1:] if is_own else None)  # without the root's mark, or nothing at all
    assert all((path is None) != is_own for path in found)


@pytest.mark.parametrize("name_block", [0, 0x1234, 0xFFFF0000])
def test_names_that_are_not_there(machine, tmp_path, name_block):
    put(machine, machine.keys[1] + machine.places[2], name_block)
    found = paths_of(machine, tmp_path)
    if machine.places[3] == 8:
        assert found[:4] == ["SOFTWARE\\Contoso\\Policies", "SOFTWARE\\Contoso", "SOFTWARE", None]
    else:
        assert found[:4] == [None] * 4
    assert found[4] == "\\REGISTRY"


def test_letters_that_cannot_be_shown(machine, tmp_path):
    width = machine.places[3]
    name = int.from_bytes(machine.read_virtual(machine.keys[3] + machine.places[2], width), "little")
    machine.write_virtual(name + (0x1A if width == 8 else 0xE), b"\x1b[2J\x07to")
    assert paths_of(machine, tmp_path)[0] == "\\REGISTRY\\MACHINE\\SOFTWARE\\?[2J?to\\Policies"
