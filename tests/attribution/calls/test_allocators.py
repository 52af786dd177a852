"""The table of functions that take a pool tag: names as images bear them, and the place of the tag on each machine."""

from __future__ import annotations

import re

import pytest

from pykdext.attribution.calls.allocators import (
    MAX_ARGUMENTS,
    Action,
    allocator_names,
    argument_locations,
    find_allocator,
)
from pykdext.attribution.flow.values import Location
from pykdext.model import Machine
from tests.conftest import PROJECT
from tests.images.test_image import DRIVERS

SOURCES = DRIVERS.parent / "src"


@pytest.mark.parametrize(
    "name",
    [
        "ExAllocatePoolWithTag",
        "_ExAllocatePoolWithTag@12",
        "__imp_ExAllocatePoolWithTag",
        "__imp__ExAllocatePoolWithTag@12",
        "@ExAllocatePoolWithTag@12",
    ],
)
def test_decoration_of_a_name_does_not_matter(name):
    assert find_allocator(name).name == "ExAllocatePoolWithTag"


@pytest.mark.parametrize(
    "name",
    ["", "ExAllocatePool", "MyExAllocatePoolWithTag", "_ExAllocatePoolWithTag", "ExAllocatePoolWithTag@x", "@@12"],
)
def test_other_names_are_not_known(name):
    assert find_allocator(name) is None


# By the WDK's prototypes, counted by hand: x64 register or stack offset, x86 stack offset, ARM64 register.
PLACES = {
    "ExFreePoolWithTag": ("rdx", 4, "x1"),
    "MmAllocateMappingAddress": ("rdx", 4, "x1"),
    "NdisAllocateGenericObject": ("rdx", 4, "x1"),
    "MmAllocateContiguousMemoryEx": (0x38, 40, "x7"),
    "NdisAllocateNetBufferListContext": ("r9", 12, "x3"),
    "ExAllocatePoolWithTag": ("r8", 8, "x2"),
    "ExAllocatePoolWithQuotaTag": ("r8", 8, "x2"),
    "ExAllocatePoolWithTagPriority": ("r8", 8, "x2"),
    "ExAllocatePool2": ("r8", 12, "x2"),
    "ExAllocatePool3": ("r8", 12, "x2"),
    "FsRtlAllocatePoolWithTag": ("r8", 8, "x2"),
    "NdisAllocateMemoryWithTag": ("r8", 8, "x2"),
    "NdisAllocateMemoryWithTagPriority": ("r8", 8, "x2"),
    "EngAllocMem": ("r8", 8, "x2"),
    "FltAllocatePoolAlignedWithTag": ("r9", 12, "x3"),
    "VideoPortAllocatePool": ("r9", 12, "x3"),
    "StorPortExtendedFunction": ("r9", 12, "x3"),
    "WdfMemoryCreate": ("r9", 12, "x3"),
    "MmMapLockedPagesWithReservedMapping": ("rdx", 4, "x1"),
    "MmUnmapReservedMapping": ("rdx", 4, "x1"),
    "ExSecurePoolUpdate": ("rdx", 4, "x1"),
    "ExSecurePoolValidate": ("rdx", 4, "x1"),
    "EngAllocPrivateUserMem": ("r8", 8, "x2"),
    "FsRtlAllocateExtraCreateParameter": (0x20, 16, "x4"),
    "ExInitializeNPagedLookasideList": (0x28, 20, "x5"),
    "ExInitializePagedLookasideList": (0x28, 20, "x5"),
    "WdfLookasideListCreate": (0x28, 20, "x5"),
    "ExInitializeLookasideListEx": (0x30, 24, "x6"),
    "ExAllocateCacheAwareRundownProtection": ("rdx", 4, "x1"),
    "ExCreatePool": ("rdx", 4, "x1"),
    "ExFreePool2": ("rdx", 4, "x1"),
    "EngAllocUserMem": ("rdx", 4, "x1"),
    "FltAllocateExtraCreateParameter": (0x28, 20, "x5"),
    "FltFreePoolAlignedWithTag": ("r8", 8, "x2"),
    "FltInitExtraCreateParameterLookasideList": (0x20, 16, "x4"),
    "FsRtlAllocateAePushLock": ("rdx", 4, "x1"),
    "FsRtlAllocatePoolWithQuotaTag": ("r8", 8, "x2"),
    "FsRtlInitExtraCreateParameterLookasideList": ("r9", 12, "x3"),
    "IoInitializeRemoveLockEx": ("rdx", 4, "x1"),
    "MmAllocateMappingAddressEx": ("rdx", 4, "x1"),
    "MmFreeMappingAddress": ("rdx", 4, "x1"),
    "NdisAllocateCloneOidRequest": ("r8", 8, "x2"),
    "NdisFreeMemoryWithTag": ("rdx", 4, "x1"),
    "NdisFreeMemoryWithTagPriority": ("r8", 8, "x2"),
    "NdisInitializeNPagedLookasideList": (0x28, 20, "x5"),
    "USBD_CreateHandle": ("r9", 12, "x3"),
    "WdAllocateDeferredWatchdog": ("r8", 8, "x2"),
    "WdAllocateWatchdog": ("r8", 8, "x2"),
    "WheaGetErrorSourceInfo": ("r9", 12, "x3"),
}
STRUCTURES = {
    "NdisAllocateNetBufferListPool": ("rdx", 8, 8),
    "NdisAllocateNetBufferPool": ("rdx", 4, 4),
    "NdisAllocateTimerObject": ("rdx", 4, 4),
    "WdfDriverCreate": (0x20, 0x1C, 0x10),
}
"""Where the address of the structure goes on x64, and where the tag stands in it on 64-bit and 32-bit systems."""


@pytest.mark.parametrize("name", PLACES)
def test_place_of_the_tag(name):
    allocator = find_allocator(name)
    found = [allocator.tag_location(machine) for machine in (Machine.X64, Machine.X86, Machine.ARM64)]
    expected = [Location(place) if isinstance(place, str) else Location("", place) for place in PLACES[name]]
    assert found == expected
    assert allocator.tag_structure_offset(Machine.X64) is None


def test_every_place_was_counted_by_hand():
    assert set(allocator_names()) == {*PLACES, *STRUCTURES}


@pytest.mark.parametrize("name", STRUCTURES)
def test_tags_in_structures(name):
    place, wide, narrow = STRUCTURES[name]
    allocator = find_allocator(name)
    assert allocator.action.is_proof, (
        "the pools of NDIS are the caller's, and so is what the framework allocates for it"
    )
    assert allocator.tag_location(Machine.X64) == (Location(place) if isinstance(place, str) else Location("", place))
    assert [allocator.tag_structure_offset(machine) for machine in (Machine.X64, Machine.ARM64, Machine.X86)] == [
        wide,
        wide,
        narrow,
    ]


def test_a_function_with_many_uses_has_a_condition():
    assert find_allocator("StorPortExtendedFunction").condition == (1, 0)


def test_a_free_is_no_allocation():
    frees = {name for name in allocator_names() if "Free" in name}
    assert frees == {name for name in allocator_names() if find_allocator(name).action is Action.FREES}
    assert "ExFreePoolWithTag" in frees


def test_the_page_on_proof_lists_every_function():
    page = (PROJECT / "docs" / "proof.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(\w+)` (\d+)( structure)?", page[page.index("## Functions that take a tag") :])
    allocators = [find_allocator(name) for name in allocator_names()]
    assert sorted(listed) == sorted(
        (allocator.name, str(allocator.tag_argument), " structure" if allocator.structure else "")
        for allocator in allocators
    )


@pytest.mark.parametrize(
    ("machine", "first", "last"),
    [
        (Machine.X64, Location("rcx"), Location("", 8 * (MAX_ARGUMENTS - 1))),
        (Machine.X86, Location("", 0), Location("edx")),
        (Machine.ARM64, Location("x0"), Location("", 8 * (MAX_ARGUMENTS - 9))),
    ],
)
def test_arguments_are_in_order(machine, first, last):
    locations = argument_locations(machine)
    assert (locations[0], locations[-1]) == (first, last)
    assert len(set(locations)) == len(locations)


@pytest.mark.skipif(not SOURCES.is_dir(), reason="the sources of the sample drivers are not here")
def test_the_declarations_of_the_sample_drivers_agree():
    """Their headers were written without regard to this table: where a parameter is called tag, the table says so."""
    text = "".join(path.read_text() for path in sorted(SOURCES.glob("*.h")))
    checked = set()
    for name, parameters in re.findall(r"\b(\w+)\(([^()]*\btag\b[^()]*)\);", text):
        allocator = find_allocator(name)
        if allocator is not None and allocator.structure is None:
            names = [parameter.split()[-1].lstrip("*") for parameter in parameters.split(",")]
            assert names.index("tag") + 1 == allocator.tag_argument, name
            checked.add(name)
    assert {"ExAllocatePoolWithTag", "ExFreePoolWithTag", "ExAllocatePool2"} <= checked
