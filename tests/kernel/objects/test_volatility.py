"""Processes, types, the cookie and handles: ours equal volatility3's on the same dump, its known defects left out."""

from __future__ import annotations

from collections import Counter

import pytest

from dumps.forge import forge
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.targets.dump.crashdump import open_crashdump


@pytest.fixture(scope="module")
def open_context(evidence):
    """Return a function that gives volatility3's context of a dump with a module ``kernel``."""
    pytest.importorskip("volatility3", reason="volatility3 (oracles extra) cannot be imported")
    from volatility3.framework import contexts
    from volatility3.framework.layers import crash, intel, physical
    from volatility3.framework.symbols.windows import WindowsKernelIntermedSymbols

    def open_dump(path, machine):
        context = contexts.Context()
        context.config["base.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "base", "base"))
        context.config["crash.base_layer"] = "base"
        context.add_layer(crash.WindowsCrashDump64Layer(context, "crash", "crash"))
        context.config["layer.memory_layer"] = "crash"
        context.config["layer.page_map_offset"] = machine.header.directory_table_base & ~0xFFF
        context.add_layer(intel.WindowsIntel32e(context, "layer", "layer"))
        table = next((evidence / "isf").glob(f"*{machine.truth.kernel_guid}*"))
        context.symbol_space.append(WindowsKernelIntermedSymbols(context, "nt", "nt_symbols", table.as_uri()))
        contexts.Module.create(context, "kernel", "layer", machine.addresses["nt"], symbol_table_name="nt_symbols")
        return context

    return open_dump


@pytest.mark.parametrize("build", [7601, 19041])
def test_volatility_finds_the_same(open_context, tmp_path, build):
    from volatility3.plugins.windows.handles import Handles
    from volatility3.plugins.windows.pslist import PsList

    machine = forge("zombies", build=build, leaked=60, healthy_share=64)
    path = tmp_path / "full.dmp"
    machine.save(path, kind=1)
    target = open_crashdump(str(path))
    space = ObjectSpace(open_kernel(target))
    context = open_context(path, machine)
    low = (1 << 48) - 1

    theirs = list(PsList.list_processes(context, "kernel"))
    ours = space.processes.processes
    name = lambda process: process.ImageFileName.cast("string", max_length=15, errors="replace")  # noqa: E731
    assert [(int(process.vol.offset) & low, int(process.UniqueProcessId), name(process)) for process in theirs] == [
        (process.address & low, process.pid, process.image) for process in ours
    ]
    for found, process in zip(theirs, ours):
        assert int(found.InheritedFromUniqueProcessId) == process.parent_pid
        assert int(found.ActiveThreads) == process.active_threads
        assert found.get_create_time() == process.started_at.replace(microsecond=found.get_create_time().microsecond)
        if build == 7601 and process.handle_table is not None:
            assert found.get_handle_count() == process.handles

    types = Handles.get_type_map(context, "kernel")
    assert {index: kind for index, kind in types.items() if index > 1} == {
        kind.index: kind.name for kind in space.types.types
    }
    cookie = Handles.find_cookie(context, "kernel")
    assert (None if cookie is None else int(cookie) & 0xFF) == space.types.cookie

    for found, process in zip(theirs, ours):
        if process.pid not in (4, 2428):
            continue
        seen = Counter()
        for header in Handles.handles(context, "kernel", found.ObjectTable):
            kind = header.get_object_type(types, cookie)
            seen[int(header.vol.offset) & low] += kind is not None
        headers = [header & low for header in space.tables.read(process.handle_table).headers]
        assert not [header for header in seen if header not in headers]
        lost = len(headers) - sum(seen.values())
        zeros = sum(space.pages.number((header | 0xFFFF << 48) + 0x18, 1) == 0 for header in headers)
        assert lost == (zeros if build >= 10240 else 0)  # it drops objects whose encoded type index is 0
    target.close()
