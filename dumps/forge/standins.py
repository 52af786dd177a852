"""Stand-ins for the modules of Windows: small images with Microsoft's version resource and code that names its tags."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Dict, Iterable, Sequence, Tuple

from dumps.forge import peimage
from dumps.forge.architectures import Architecture
from dumps.forge.peimage import Image, Section
from dumps.forge.routines import pack_function_table, start_routines

ALLOCATE = "ExAllocatePoolWithTag"
FREE = "ExFreePoolWithTag"
PAGEABLE_RVA = 0x4000

_PAGE = 0x1000
_UNWIND = bytes((1, 4, 1, 0, 4, 0x42, 0, 0))  # one code: sub rsp, 28h


@dataclass(frozen=True)
class StandIn:
    """A module of Windows: the tags it allocates with in nonpaged and in paged code, separated by bars."""

    name: str
    directory: str
    description: str
    nonpaged_tags: str = ""
    paged_tags: str = ""

    @property
    def tags(self) -> Tuple[bytes, ...]:
        """Every tag in the module's code."""
        return split_tags(self.nonpaged_tags) + split_tags(self.paged_tags)


_SYSTEM = "\\SystemRoot\\system32\\"
_DRIVERS = "\\SystemRoot\\System32\\drivers\\"

MODULES: Tuple[StandIn, ...] = (
    StandIn("hal.dll", _SYSTEM, "Hardware Abstraction Layer DLL", "HalD|Hal "),
    StandIn("CLFS.SYS", _DRIVERS, "Common Log File System Driver", "Clfs|ClfI"),
    StandIn("FLTMGR.SYS", _DRIVERS, "Microsoft Filesystem Filter Manager", "FMsl|FMfn|FMic", "FMvo|FMfz"),
    StandIn("ACPI.sys", _DRIVERS, "ACPI Driver for NT", "AcpD|AmlH|AcpM"),
    StandIn("storport.sys", _DRIVERS, "Microsoft Storage Port Driver", "RaEW|Stor|RaDA"),
    StandIn("NDIS.SYS", _DRIVERS, "Network Driver Interface Specification (NDIS)", "NDnd|NDpp|Nb43"),
    StandIn("NETIO.SYS", _DRIVERS, "Network I/O Subsystem", "NS@@|WfpM|NtFL"),
    StandIn("Ntfs.sys", _SYSTEM + "Drivers\\", "NT File System Driver", "NtfF|NtxF|NtxI|Ntf0", "Ntff|NtFs|NtfI|NtFC"),
    StandIn("tcpip.sys", _DRIVERS, "TCP/IP Driver", "TcpE|TcDN|InPa|IPAt|UdpA|TSmp", "IPpi"),
    StandIn("wcifs.sys", _DRIVERS, "Windows Container Isolation FS Filter Driver", "WcNm|WcSt"),
    StandIn("afd.sys", _DRIVERS, "Ancillary Function Driver for WinSock", "AfdE|AfdC|AfdB"),
    StandIn("rdbss.sys", _DRIVERS, "Redirected Drive Buffering SubSystem Driver", "RxSc|RxIr", "RxMs"),
    StandIn("srv2.sys", _DRIVERS, "Smb 2.0 Server driver", "LSbf|LSwi", "LSmd"),
    StandIn("HTTP.sys", _DRIVERS, "HTTP Protocol Stack", "UlIL|UlRB", "UlFC"),
    StandIn("Wdf01000.sys", _SYSTEM + "drivers\\", "Kernel Mode Driver Framework Runtime", "FxDr|FxL "),
)

# Loaded only where a driver imports from them.
LIBRARIES: Tuple[StandIn, ...] = (
    StandIn("videoprt.sys", _DRIVERS, "Video Port Driver", "VPde"),
    StandIn("WDFLDR.SYS", _DRIVERS, "Kernel Mode Driver Framework Loader", "WdfL"),
)


def split_tags(text: str) -> Tuple[bytes, ...]:
    """Return the tags of a list separated by bars."""
    return tuple(tag.encode("ascii") for tag in text.split("|")) if text else ()


def build_standin(
    module: StandIn,
    architecture: Architecture,
    base: int,
    windows: Tuple[int, int, int, int],
    exports: Iterable[str],
) -> Image:
    """Return the module for ``base``; what it exports are further routines of its .text."""
    chance = random.Random(module.name)
    imports, slots, slots_extent = peimage.build_imports(architecture, 0x2000, {"ntoskrnl.exe": (ALLOCATE, FREE)})
    code = start_routines(architecture, 0x1000, slots[ALLOCATE], base=base)
    for tag in split_tags(module.nonpaged_tags):
        code.add_allocation(tag, 0x200, chance.randrange(0x40, 0x400, 0x10))
    functions = {name: code.add_empty() for name in exports}
    pageable = start_routines(architecture, PAGEABLE_RVA, slots[ALLOCATE], base=base)
    for tag in split_tags(module.paged_tags):
        pageable.add_allocation(tag, 1, chance.randrange(0x40, 0x400, 0x10))

    rdata = imports.ljust(0x400, b"\0")
    guid = format(chance.getrandbits(128), "032X")
    timestamp = chance.getrandbits(31)
    debug, debug_bytes = peimage.build_debug(0x2400, guid, 1, module.name.rsplit(".", 1)[0] + ".pdb", timestamp)
    rdata += debug.ljust(0x100, b"\0") + _UNWIND.ljust(0x10, b"\0")
    function_table = pack_function_table(architecture, code.routines + pageable.routines, 0x2500)
    rdata += function_table
    version = peimage.build_version_resource(0x6000, windows, version_texts(module.name, module.description, windows))
    directories = {
        peimage.IMPORT: (0x2000, 0x28),
        peimage.RESOURCE: (0x6000, len(version)),
        peimage.DEBUG: (0x2400, debug_bytes),
        peimage.IMPORT_ADDRESS_TABLE: slots_extent,
    }
    if function_table:
        directories[peimage.EXCEPTION] = (0x2510, len(function_table))
    if functions:
        export_rva = 0x2510 + len(function_table)
        exported = peimage.build_exports(export_rva, module.name, functions)
        directories[peimage.EXPORT] = (export_rva, len(exported))
        rdata += exported
    sections = (
        Section(".text", 0x1000, _PAGE, peimage.CODE),
        Section(".rdata", 0x2000, _PAGE, peimage.READ_ONLY_DATA),
        Section(".data", 0x3000, _PAGE, peimage.WRITABLE_DATA),
        Section("PAGE", PAGEABLE_RVA, _PAGE, peimage.PAGEABLE_CODE),
        Section("INIT", 0x5000, _PAGE, peimage.DISCARDABLE_CODE),
        Section(".rsrc", 0x6000, _PAGE, peimage.RESOURCES),
    )
    headers = peimage.build_headers(
        architecture, module.name, sections, directories, base=base, entry_rva=0x5000, timestamp=timestamp, size=0x7000
    )
    cookie = 0xBB40E64E if architecture.narrow else 0x2B992DDFA232  # what compilers put there before the start
    pieces = [
        (0, headers),
        (0x1000, code.finish()),
        (0x2000, rdata),
        (0x3000, architecture.pack_pointers(cookie, base + 0x1000)),  # the security cookie, a callback
        (PAGEABLE_RVA, pageable.finish()),
        (0x6000, version),
    ]
    pieces, checksum = peimage.add_checksum(pieces, 0x7000)
    return Image(
        name=module.name,
        timestamp=timestamp,
        checksum=checksum,
        size=0x7000,
        entry_rva=0x5000,
        sections=sections,
        pieces=pieces,
        exports=functions,
        imports={slot: name for name, slot in slots.items()},
    )


def version_texts(name: str, description: str, version: Sequence[int]) -> Dict[str, str]:
    """Return the strings of a version resource of Windows itself."""
    number = ".".join(map(str, version))
    return {
        "CompanyName": "Microsoft Corporation",
        "FileDescription": description,
        "FileVersion": f"{number} (WinBuild.160101.0800)",
        "InternalName": name,
        "OriginalFilename": name,
        "ProductName": "Microsoft\N{REGISTERED SIGN} Windows\N{REGISTERED SIGN} Operating System",
        "ProductVersion": number,
    }
