"""pefile agrees on real images: sections, imports, exports, debug directory, version and function table."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dumps.drivers import build
from pykdext.images.exports import read_exports
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.images.imports import read_imports
from pykdext.images.unwindtables import read_unwind_table
from pykdext.model import Machine, Module
from tests.helpers.segments import SegmentsTarget

pefile = pytest.importorskip("pefile")

PAGE = 0x1000
MACHINES = {0x14C: Machine.X86, 0x8664: Machine.X64, 0xAA64: Machine.ARM64}
EXPORT, IMPORT, RESOURCE, EXCEPTION, DEBUG, DELAY_IMPORT = 0, 1, 2, 3, 6, 13
CODEVIEW, REPRODUCIBLE = 2, 16
FEW_LIBRARIES = 24


def own_files():
    found = importlib.util.find_spec("pydivert")
    windivert = Path(found.origin).parent.rglob("WinDivert*.*") if found and found.origin else ()
    return sorted(build.IMAGES.glob("*/*.sys")) + sorted(path for path in windivert if path.suffix in {".sys", ".dll"})


def wine_files():
    """Every driver and the kernel of Debian's libwine, some of its libraries, and what mingw brings."""
    wine = [path for folder in Path("/usr/lib").glob("*/wine/*-windows") for path in sorted(folder.iterdir())]
    drivers = [path for path in wine if path.suffix == ".sys" or path.name == "ntoskrnl.exe"]
    small = [path for path in wine if path.suffix in {".dll", ".exe"} and path.stat().st_size < 300_000]
    mingw = sorted(Path("/usr").glob("*-w64-mingw32/lib/*.dll"))
    return drivers + small[:: max(len(small) // FEW_LIBRARIES, 1)] + mingw


def parse(path):
    pe = pefile.PE(str(path), fast_load=True)
    directories = [EXPORT, IMPORT, RESOURCE, EXCEPTION, DEBUG, DELAY_IMPORT]
    pe.parse_data_directories(directories=directories)
    return pe


def open_mapped(pe, path):
    """The file as pefile maps it, at another base than its own."""
    size = -(-pe.OPTIONAL_HEADER.SizeOfImage // PAGE) * PAGE
    memory = bytes(pe.get_memory_mapped_image()).ljust(size, b"\0")[:size]
    base = 0x8C000000
    module = Module(path.name, base, size)
    return SegmentsTarget({base: memory}, machine=MACHINES[pe.FILE_HEADER.Machine], modules=(module,))


@pytest.fixture(
    params=[(path, form) for path in own_files() for form in ("file", "memory")]
    + [(path, "file") for path in wine_files()],
    ids=lambda param: f"{param[0].parent.name}/{param[0].name}-{param[1]}",
)
def pair(request):
    """What pefile reads of a file, and our image of the same."""
    path, form = request.param
    pe = parse(path)
    with ExitStack() as stack:
        target = stack.enter_context(open_image_file(str(path))) if form == "file" else open_mapped(pe, path)
        yield pe, read_image(target, target.modules()[0])


def test_pefile_agrees(pair):
    pe, image = pair
    assert image.warnings == []
    assert image.machine is MACHINES[pe.FILE_HEADER.Machine]
    assert image.entry_rva == pe.OPTIONAL_HEADER.AddressOfEntryPoint
    assert image.checksum == pe.OPTIONAL_HEADER.CheckSum
    assert_sections(pe, image)
    assert list(map(tuple, read_imports(image))) == list(expected_imports(pe))
    assert dict(read_exports(image).rvas) == expected_exports(pe)
    assert_debug_directory(pe, image)
    assert_version(pe, image)
    assert_function_table(pe, image)
    assert image.warnings == []


def assert_sections(pe, image):
    assert [(section.name, section.rva, section.size) for section in image.sections] == [
        (each.Name.rstrip(b"\0").decode("latin-1"), each.VirtualAddress, each.Misc_VirtualSize or each.SizeOfRawData)
        for each in pe.sections
    ]
    for each in pe.sections:
        size = min(each.Misc_VirtualSize, each.SizeOfRawData)
        assert not size or image.read(each.VirtualAddress, size) == each.get_data()[:size]


def expected_imports(pe):
    libraries = [*getattr(pe, "DIRECTORY_ENTRY_IMPORT", ()), *getattr(pe, "DIRECTORY_ENTRY_DELAY_IMPORT", ())]
    for library in libraries:
        for slot in library.imports:
            name = slot.name.decode() if slot.name else None
            ordinal = slot.ordinal if slot.import_by_ordinal else None
            yield slot.address - pe.OPTIONAL_HEADER.ImageBase, library.dll.decode(), name, ordinal


def expected_exports(pe):
    exports = getattr(pe, "DIRECTORY_ENTRY_EXPORT", None)
    return {
        symbol.name.decode(): symbol.address
        for symbol in (exports.symbols if exports else ())
        if symbol.name and symbol.address and not symbol.forwarder
    }


def assert_debug_directory(pe, image):
    entries = getattr(pe, "DIRECTORY_ENTRY_DEBUG", ())
    codeview = [each.entry for each in entries if each.struct.Type == CODEVIEW and each.entry]
    assert (image.pdb is None) == (not codeview)
    if codeview:
        name = codeview[0].PdbFileName.rstrip(b"\0").decode().replace("/", "\\").rpartition("\\")[2]
        assert (image.pdb.key.upper(), image.pdb.file_name) == (codeview[0].Signature_String.upper(), name)
    linked_at = datetime.fromtimestamp(pe.FILE_HEADER.TimeDateStamp, timezone.utc)
    is_reproducible = any(each.struct.Type == REPRODUCIBLE for each in entries)
    in_reach = linked_at.year >= 1995 and linked_at <= datetime.now(timezone.utc)
    assert image.version.built_at == (linked_at if in_reach and not is_reproducible else None)


def assert_version(pe, image):
    texts = {}
    for info in getattr(pe, "FileInfo", [[]])[0]:
        for table in info.StringTable if info.Key == b"StringFileInfo" else ():
            for key, value in table.entries.items():
                texts.setdefault(key.decode(), value.decode() or None)
    found = (image.version.company, image.version.product, image.version.description)
    assert found == tuple(texts.get(key) for key in ("CompanyName", "ProductName", "FileDescription"))


def assert_function_table(pe, image):
    table = read_unwind_table(image)
    entries = [each.struct for each in getattr(pe, "DIRECTORY_ENTRY_EXCEPTION", ())]
    if image.machine is Machine.X64:
        expected = sorted((each.BeginAddress, each.EndAddress) for each in entries)
        assert [(code.start, code.end) for code in table] == [span for span in expected if span[0] < span[1]]
    elif image.machine is Machine.X86:
        assert table == ()
    else:
        assert 8 * len(table) == image.directory(EXCEPTION)[1], "pefile does not know ARM64's"
