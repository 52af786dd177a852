"""The stand-in for nt: the identity and the exports of a real kernel at their real addresses, and a little code."""

from __future__ import annotations

from typing import Iterable, Optional, Set, Tuple

from dumps.forge import peimage
from dumps.forge.kernelcode.link import LinkedCode, link_pool_code
from dumps.forge.kernels import KernelBuild
from dumps.forge.peimage import Image, Section
from dumps.forge.routines import start_routines
from dumps.forge.standins import ALLOCATE, split_tags, version_texts

IMAGE_NAME = "ntoskrnl.exe"

# Tags of kernel objects and of the kernel's own components.
_TAGS = "Toke|Irp |Proc|File|Thre|Even|Mdl |Pool|EtwB|EtwR|CM31|CM25|MmSt|MmCa|Vad |ObNm|SeTd|SeAt|ALPC|smNp"
NT_TAGS = split_tags(_TAGS)

_PAGE = 0x1000
_UNWIND_OFFSET = 0x800
_FIRST_WITH_EXPORTED_LIST = 10240
_CHARACTERISTICS = {
    ".text": peimage.CODE,
    "POOLCODE": peimage.CODE,
    "PAGE": peimage.PAGEABLE_CODE,
    ".rdata": peimage.READ_ONLY_DATA,
    ".data": peimage.WRITABLE_DATA,
    "ALMOSTRO": peimage.WRITABLE_DATA,
}
_VERSIONS = {2600: (5, 1), 3790: (5, 2), 6002: (6, 0), 7601: (6, 1), 9600: (6, 3)}


def build_nt(kernel: KernelBuild, imported: Iterable[str]) -> Image:
    """Return the kernel's image; what drivers import beyond the known functions is added to its code."""
    architecture = kernel.architecture
    text_start = next(start for name, start, _ in kernel.sections if name == ".text")
    code_rva = _free_page(text_start, kernel)
    code = start_routines(architecture, code_rva, target_rva=kernel.functions[ALLOCATE])
    for number, tag in enumerate(NT_TAGS):
        code.add_allocation(tag, 0x200 if number % 3 else 1, 0x40 + 0x10 * number)
    if architecture.is_virtual and kernel.build >= _FIRST_WITH_EXPORTED_LIST:
        code_exports = {"PsLoadedModuleList": kernel.variables["PsLoadedModuleList"]}
    else:
        code_exports = {}
    stubs = start_routines(architecture, code_rva + _PAGE // 2)
    exports = {**kernel.functions, **code_exports}
    for name in sorted(set(imported) - set(exports)):
        exports[name] = stubs.add_empty()
    linked = _link_pool_code(kernel, code_rva + _PAGE)
    own = {rva for rva, _ in linked.pieces} if linked else set()
    bodies = [(rva, start_routines(architecture, rva)) for rva in sorted(set(kernel.functions.values()) - own)]
    for _, body in bodies:
        body.add_empty()

    end = kernel.sections[-1][2]
    export_rva, debug_rva, resource_rva, init_rva = end, end + 3 * _PAGE, end + 4 * _PAGE, end + 5 * _PAGE
    version = windows_version(kernel)
    exported = peimage.build_exports(export_rva, IMAGE_NAME, exports)
    debug, debug_bytes = peimage.build_debug(debug_rva, kernel.guid, kernel.age, kernel.pdb_name, kernel.timestamp)
    texts = version_texts(kernel.pdb_name.replace(".pdb", ".exe"), "NT Kernel & System", version)
    resource = peimage.build_version_resource(resource_rva, version, texts)
    sections = (
        *(Section(name, start, stop - start, _CHARACTERISTICS[name]) for name, start, stop in kernel.sections),
        Section(".edata", export_rva, 4 * _PAGE, peimage.READ_ONLY_DATA),
        Section(".rsrc", resource_rva, _PAGE, peimage.RESOURCES),
        Section("INIT", init_rva, 4 * _PAGE, peimage.DISCARDABLE_CODE),
    )
    directories = {
        peimage.EXPORT: (export_rva, len(exported)),
        peimage.RESOURCE: (resource_rva, len(resource)),
        peimage.DEBUG: (debug_rva, debug_bytes),
    }
    if linked and linked.function_table[1]:
        directories[peimage.EXCEPTION] = linked.function_table
    size = init_rva + 4 * _PAGE
    headers = peimage.build_headers(
        architecture,
        IMAGE_NAME,
        sections,
        directories,
        base=kernel.base,
        entry_rva=init_rva,
        timestamp=kernel.timestamp,
        size=size,
    )
    pieces = [
        (0, headers),
        *((rva, body.finish()) for rva, body in bodies),
        *(linked.pieces if linked else ()),
        (code_rva, code.finish()),
        (code_rva + _PAGE // 2, stubs.finish()),
        (export_rva, exported),
        (debug_rva, debug),
        (resource_rva, resource),
    ]
    pieces, checksum = peimage.add_checksum(pieces, size)
    return Image(
        name=IMAGE_NAME,
        timestamp=kernel.timestamp,
        checksum=checksum,
        size=size,
        entry_rva=init_rva,
        sections=sections,
        pieces=pieces,
        exports=exports,
    )


def _link_pool_code(kernel: KernelBuild, start_rva: int) -> Optional[LinkedCode]:
    """Return the kernel's own code that uses its tag tables, on the first free page; None for kernels without."""
    if not kernel.pool_code:
        return None
    return link_pool_code(
        kernel.architecture,
        kernel.pool_code,
        kernel.base,
        _free_page(start_rva, kernel),
        kernel.sections[-1][2] + 3 * _PAGE + _UNWIND_OFFSET,
        kernel.variables,
        kernel.functions,
    )


def windows_version(kernel: KernelBuild) -> Tuple[int, int, int, int]:
    """Return the version that this Windows writes into its modules: major, minor, build, revision."""
    major, minor = _VERSIONS.get(kernel.build, (10, 0))
    revision = int(kernel.build_lab.split(".")[1]) if kernel.build < 17763 else kernel.timestamp % 4000
    return major, minor, kernel.build, revision


def _free_page(start: int, kernel: KernelBuild) -> int:
    """Return the first page from ``start`` on that no function or variable of the kernel lies in."""
    taken: Set[int] = {rva & -_PAGE for rva in (*kernel.functions.values(), *kernel.variables.values())}
    while start in taken:
        start += _PAGE
    return start
