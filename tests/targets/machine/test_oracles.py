"""What others read: volatility3's layers and LeechCore see the same pages in the containers that they know."""

from __future__ import annotations

import pytest

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
