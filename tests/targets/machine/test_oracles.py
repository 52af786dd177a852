"""What others read: pages, kernels and modules by volatility3, pages by LeechCore, saved states by dissect."""

from __future__ import annotations

import struct

import pytest

from pykdext.targets.dump.compressed import open_file
from pykdext.targets.machine.hypervstorage import StorageFile

PAGE = 0x1000

LAYERS = {
    "raw": ("volatility3.framework.layers.physical", None),
    "vmem": ("volatility3.framework.layers.vmware", "VmwareLayer"),
    "elf": ("volatility3.framework.layers.elf", "Elf64Layer"),
    "lime": ("volatility3.framework.layers.lime", "LimeLayer"),
    "xen": ("volatility3.framework.layers.xen", "XenCoreDumpLayer"),
}


def open_layer(name, path):
    pytest.importorskip("volatility3", reason="oracles extra is not installed")
    import importlib

    from volatility3.framework import contexts
    from volatility3.framework.layers import physical, resources

    with resources.ResourceAccessor().open(path.as_uri()):
        pass
    context = contexts.Context()
    context.config["base.location"] = path.as_uri()
    context.layers.add_layer(physical.FileLayer(context, "base", "base"))
    module, layer = LAYERS[name]
    if layer is None:
        return context.layers["base"]
    if name == "vmem":
        context.config["meta.location"] = path.with_suffix(".vmsn").as_uri()
        context.layers.add_layer(physical.FileLayer(context, "meta", "meta"))
        context.config["top.meta_layer"] = "meta"
    context.config["top.base_layer"] = "base"
    found = getattr(importlib.import_module(module), layer)(context, "top", "top")
    context.layers.add_layer(found)
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_volatility_reads_the_same_pages(container, opened, machine, name):
    path = container(name)
    layer = open_layer(name, path)
    memory = opened(path)._container
    for number in machine.memory.pages:
        assert layer.read(number * PAGE, PAGE) == memory.read_physical(number * PAGE, PAGE), hex(number)
    assert not layer.is_valid(0xC0000 * PAGE) or name == "raw"


@pytest.mark.parametrize("name", ["raw", "vmem", "elf", "lime"])
def test_leechcore_reads_the_same_pages(container, opened, machine, name):
    leechcorepyc = pytest.importorskip("leechcorepyc", reason="oracles extra is not installed")
    path = container(name)
    memory = opened(path)._container
    try:
        other = leechcorepyc.LeechCore(f"file://{path}")
    except RuntimeError as error:
        pytest.skip(f"LeechCore does not open this {name} file: {error}")
    try:
        compared = 0
        for number in machine.memory.pages:
            data = other.read(number * PAGE, PAGE, True)
            if number < 0x100000 or data.strip(b"\0"):
                assert data == memory.read_physical(number * PAGE, PAGE), hex(number)
                compared += 1
        assert compared
    finally:
        other.close()


@pytest.mark.parametrize("name", ["raw", "vmem", "elf", "lime", "xen"])
def test_volatility_lists_the_same_modules(container, opened, evidence, machine, name):
    """Its own page tables' reader and its own list of modules, with the symbols of the real kernel."""
    dump = opened(container(name))
    layer = open_layer(name, container(name))
    from volatility3.framework.layers import intel
    from volatility3.framework.symbols.windows import WindowsKernelIntermedSymbols
    from volatility3.plugins.windows.modules import Modules

    context, facts = layer.context, dump._known
    table = next((evidence / "isf").glob(f"*{machine.truth.kernel_guid}*"))
    context.config["v.memory_layer"] = layer.name
    context.config["v.page_map_offset"] = facts.directory_table_base
    context.layers.add_layer(intel.WindowsIntel32e(context, "v", "virtual", metadata={"os": "Windows"}))
    context.symbol_space.append(WindowsKernelIntermedSymbols(context, "s", "nt_symbols", table.as_uri()))
    context.module("nt_symbols", layer_name="virtual", offset=dump.kernel_base)
    theirs = [
        (module.BaseDllName.get_string(), module.DllBase, module.SizeOfImage)
        for module in Modules.list_modules(context, "nt_symbols")
    ]
    mask = (1 << 48) - 1  # it keeps the translated bits of a pointer only
    ours = [(module.name, module.base & mask, module.size) for module in dump.modules() if not module.unloaded]
    assert theirs == ours
    assert len(ours) == len(machine.truth.modules)


@pytest.mark.parametrize("name", ["vmrs", "vmrs-plain"])
def test_dissect_reads_the_same_values_of_a_saved_state(container, name):
    reader = pytest.importorskip("dissect.hypervisor.descriptor.hyperv", reason="oracles extra is not installed")
    path = container(name)
    with open_file(str(path)) as file, open(path, "rb") as stream:
        ours = StorageFile(file)
        theirs = dict(iter_values(reader.HyperVFile(stream).as_dict()))
        assert ours.values.keys() == theirs.keys()
        for key, value in theirs.items():
            expected = value if isinstance(value, bytes) else struct.pack("<q", value)
            assert ours.read(key, 1 << 21) == expected, key


def iter_values(node, path=""):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from iter_values(value, f"{path}/{name}")
        else:
            yield f"{path}/{name}", value
