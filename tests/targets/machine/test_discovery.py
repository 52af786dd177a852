"""The kernel is found by every way that there is, past decoys, in shifted images, and only where it is."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from dumps.forge.virtual import STUB_PAGE
from dumps.forge.vmfiles import elfcores, pages, plain
from pykdext.errors import DumpFormatError
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.model import BugCheck
from pykdext.targets.dump.crashdump import open_crashdump
from tests.targets.machine.conftest import make_machine

PAGE = 0x1000
SELF_SLOT = 0x1ED
_FLAGS = 0x8000000000000863


@pytest.fixture
def image(tmp_path, opened):
    """Opens a machine as a raw image."""

    def open_image(machine, **options):
        path = tmp_path / "memory.raw"
        plain.save_raw(machine, path, **options)
        return opened(path)

    return open_image


def without_stub(machine):
    machine.memory.pages.pop(STUB_PAGE)
    return machine


def move_root(machine, frame, slot=SELF_SLOT):
    """Put the top table elsewhere, and let it name itself in another entry. The forge's own view ends with that."""
    page = machine.memory.pages.pop(machine.space.root_pfn)
    struct.pack_into("<Q", page, SELF_SLOT * 8, 0)
    struct.pack_into("<Q", page, slot * 8, frame << 12 | _FLAGS)
    machine.memory.pages[frame] = page
    for number in range(12):  # the other processes' tables would do as well
        machine.memory.pages.pop(machine.addresses[f"root:{number}"] >> 12)
    return frame << 12


def found_by(dump):
    return dump.facts.image.found_by


def test_without_registers_the_low_stub_leads(image):
    assert found_by(image(make_machine())) == "the code that starts processors"


@pytest.mark.parametrize("slot", [0x100, 0x10A, 0x1ED, 0x1FE])
@pytest.mark.parametrize("frame", [0x187, 0x7B5, 0x5A00, 0x30000])
def test_a_search_finds_the_table_wherever_it_is_and_names_itself(image, frame, slot):
    machine = without_stub(make_machine())
    root = move_root(machine, frame, slot)
    dump = image(machine)
    assert found_by(dump) == "a search for its page tables"
    assert dump._known.directory_table_base == root
    assert len([module for module in dump.modules() if not module.unloaded]) == len(machine.truth.modules)


def test_decoys_before_the_true_table_are_refused(image):
    machine = without_stub(make_machine())
    for number, frame in enumerate((0x101, 0x102, 0x103)):
        page = machine.memory.page(frame)
        struct.pack_into("<Q", page, (0x100 + 0x37 * number) * 8, frame << 12 | _FLAGS)
    stale = machine.memory.page(0x104)  # the table of an older boot: its tables are gone
    stale[0x800:] = machine.memory.pages[machine.space.root_pfn][0x800:]
    for slot in range(0x100, 0x200):
        struct.pack_into("<Q", stale, slot * 8, (0x90000 + slot) << 12 | _FLAGS)
    struct.pack_into("<Q", stale, SELF_SLOT * 8, 0x104 << 12 | _FLAGS)
    dump = image(machine)
    assert found_by(dump) == "a search for its page tables; 4 others refused"


def test_a_page_that_names_itself_twice_is_no_table(image):
    machine = without_stub(make_machine())
    page = machine.memory.page(0x101)
    for slot in (0x120, 0x1ED):
        struct.pack_into("<Q", page, slot * 8, 0x101 << 12 | _FLAGS)
    assert found_by(image(machine)) == "a search for its page tables"


@pytest.mark.parametrize("build", [7601, 9600, 14393, 17763, 19041, 20348, 22000])
def test_every_build_is_found_by_search_alone(image, build):
    machine = without_stub(make_machine(build=build))
    dump = image(machine)
    assert dump.facts.build == build
    assert dump.kernel_base == machine.kernel.base
    assert dump.modules()[0].name == "ntoskrnl.exe"


@pytest.mark.parametrize("build", [9600, 19041])
def test_unknown_kernels_are_found_as_well(image, build):
    dump = image(without_stub(make_machine(build=build, known_kernel=False)))
    assert dump.symbol("PoolTrackTable")  # their debugger data block is found by its tag


def test_the_header_page_of_nt_alone_is_enough(image):
    machine = without_stub(make_machine())
    base = machine.kernel.base
    first = machine.space.translate(base) // PAGE
    for number in range(first + 1, first + 0x40):
        machine.memory.pages.pop(number, None)
    assert image(machine).kernel_base == base


@pytest.mark.parametrize(("build", "known"), [(7601, True), (19041, True), (19041, False)])
def test_without_its_first_page_nt_is_found_by_the_record_of_its_pdb(image, build, known):
    machine = make_machine(build=build, known_kernel=known)
    address = next(
        at for at in find_records(machine) if at // PAGE != machine.space.translate(machine.kernel.base) // PAGE
    )
    for frame in (0x400, 0x401):  # copies of the same and of another file, which no page table maps
        page = machine.memory.page(frame)
        page[0x10:0x210] = machine.memory.pages[address // PAGE][address % PAGE :][:0x200].ljust(0x200, b"\0")
    machine.memory.page(0x401)[0x14:0x18] = b"abcd"
    machine.memory.pages.pop(machine.space.translate(machine.kernel.base) // PAGE)
    dump = image(machine)
    assert "nt by the record of ntkrnlmp.pdb" in found_by(dump)
    assert dump.kernel_base == machine.kernel.base
    kernel = open_kernel(dump)
    assert kernel.pdb.guid == machine.kernel.guid
    assert len([module for module in dump.modules() if not module.unloaded]) == len(machine.truth.modules)
    assert kernel.find_symbol("PoolTrackTable").address == machine.addresses["PoolTrackTable"]


def find_records(machine):
    for number, page in sorted(machine.memory.pages.items()):
        at = bytes(page).find(b"RSDS")
        if at >= 0 and b"ntkrnlmp.pdb" in page[at : at + 0x40]:
            yield number * PAGE + at


def split(machine):
    """Map nt by small pages."""
    base = machine.kernel.base
    mapped = {va: machine.space.translate(va) for va in range(base, base + (16 << 20), PAGE)}
    machine.space.unmap(base, PAGE)  # that splits the large page
    for va, address in mapped.items():
        if address is not None:
            machine.space.map_page(va, address // PAGE, executable=True)
    return machine


def test_a_kernel_of_small_pages(image):
    machine = split(without_stub(make_machine()))
    assert image(machine).kernel_base == machine.kernel.base


def test_a_hole_that_is_cut_out_is_found_and_named(image, machine):
    dump = image(machine, concatenated=True)
    (warning,) = dump.facts.warnings
    assert warning.startswith("the hole of 1.00 GB below 4 GiB is cut out of the file: what stands at 0xc0000000")
    number = max(machine.memory.pages)
    assert dump._container.read_physical(number * PAGE, PAGE) == machine.memory.pages[number]


def test_a_hole_of_any_size_is_measured_by_other_processes(tmp_path, opened):
    machine = without_stub(make_machine())
    start = 0xBFE00  # as firmware sets it: at no round number
    lost = [number for number in machine.memory.pages if start <= number < 0x100000]
    assert not lost
    path = tmp_path / "memory.raw"
    found = pages.ram_pages(machine)
    with open(path, "wb") as file:
        pages.write_range(file, 0, found, 0, start)
        pages.write_range(file, start * PAGE, found, 0x100000, 0x80000)
    shifted, short = opened(path).facts.warnings
    assert "what stands at 0xbfe00000 is memory from 0x100000000 on" in shifted
    assert "the machine has 5.00 GB" in short


def user_mode(machine, build):
    """Every processor in user mode, with a table of little more than shared data and control regions."""
    own = machine.memory.pages[machine.space.root_pfn]
    shadow = machine.memory.page(0x900)
    kept = {SELF_SLOT: 0x900 << 12 | _FLAGS, 0x1EF: struct.unpack_from("<Q", own, 0x1EF * 8)[0]}
    cpus = []
    for cpu in pages.registers(machine):
        slot = cpu.gs >> 39 & 0x1FF
        kept[slot] = struct.unpack_from("<Q", own, slot * 8)[0]
        offset = {7601: 0x6000, 9600: 0x7000, 14393: 0x7000, 17763: 0x7000, 19041: 0x9000}.get(build, 0xA000)
        machine.write_virtual(cpu.gs + offset, struct.pack("<Q", machine.space.root_address | 2))
        cpus.append(replace(cpu, cr3=0x900 << 12 | 0x8000000000000002, rip=0x7FF61000, gs=0x7F123000, kernel_gs=cpu.gs))
    for slot, entry in kept.items():
        struct.pack_into("<Q", shadow, slot * 8, entry)
    return cpus


@pytest.mark.parametrize("build", [9600, 14393, 17763, 19041, 20348, 22000])
def test_a_processor_in_user_mode_leads_through_its_control_region(tmp_path, opened, build):
    machine = without_stub(make_machine(build=build))
    path = tmp_path / "core.elf"
    elfcores.save_core(machine, path, processors=user_mode(machine, build))
    dump = opened(path)
    assert found_by(dump).startswith("the processors' control regions")
    assert dump._known.directory_table_base == machine.space.root_address


def hang_below_five_levels(machine, frame=0x7B5, slot=0x1B3):
    """The kernel as ntkrla57 runs: its PML4 hangs below the last entry of a PML5, which alone names itself."""
    tables = [machine.space.root_pfn, *(machine.addresses[f"root:{number}"] >> 12 for number in range(12))]
    for place, table in enumerate(tables):
        struct.pack_into("<Q", machine.memory.pages[table], SELF_SLOT * 8, 0)
        top = frame + place
        page = machine.memory.page(top)
        struct.pack_into("<Q", page, 511 * 8, machine.space.root_pfn << 12 | 0x63)
        struct.pack_into("<Q", page, slot * 8, top << 12 | _FLAGS)
    return frame << 12


@pytest.mark.parametrize("way", ["registers", "registers of a hypervisor", "stub", "search"])
def test_five_levels_of_tables_are_read(tmp_path, opened, way):
    machine = make_machine()
    tables = read_pool_snapshot(open_kernel(opened(save_core(machine, tmp_path / "four")))).tags
    root = hang_below_five_levels(machine)
    stub = machine.memory.pages[STUB_PAGE]
    struct.pack_into("<QQ", stub, 0xA0, root, 0x350EF8 | 1 << 12)
    cpus = [replace(cpu, cr3=root | 2, cr4=cpu.cr4 | (way == "registers") << 12) for cpu in pages.registers(machine)]
    if way == "search":
        machine.memory.pages.pop(STUB_PAGE)
    dump = opened(save_core(machine, tmp_path / "five", cpus if way.startswith("registers") else []))
    assert found_by(dump).endswith(", five levels of page tables")
    assert dump._known.directory_table_base == root
    assert read_pool_snapshot(open_kernel(dump)).tags == tables
    assert not dump.facts.warnings


def save_core(machine, path, processors=None):
    elfcores.save_core(machine, path, processors=processors)
    return path


def test_a_user_mode_processor_with_five_levels_leads_through_its_control_region(tmp_path, opened):
    machine = without_stub(make_machine())
    root = hang_below_five_levels(machine)
    cpus = []
    shadow = machine.memory.page(0x900)  # shared data and control regions hang below its own PML4
    for cpu in user_mode(machine, 19041):
        machine.write_virtual(cpu.kernel_gs + 0x9000, struct.pack("<Q", root | 2))
        cpus.append(replace(cpu, cr3=0x901 << 12 | 2, cr4=cpu.cr4 | 1 << 12))
    struct.pack_into("<Q", shadow, SELF_SLOT * 8, 0)
    struct.pack_into("<Q", machine.memory.page(0x901), 511 * 8, 0x900 << 12 | 0x63)
    dump = opened(save_core(machine, tmp_path / "core", cpus))
    assert found_by(dump).startswith("the processors' control regions, five levels of page tables")
    assert dump._known.directory_table_base == root


def test_a_hole_is_found_below_five_levels_too(image):
    machine = without_stub(make_machine())
    hang_below_five_levels(machine)
    (warning,) = image(machine, concatenated=True).facts.warnings
    assert "what stands at 0xc0000000 is memory from 0x100000000 on" in warning


def test_an_image_of_another_system_is_refused(tmp_path):
    path = tmp_path / "linux.raw"
    with open(path, "wb") as file:
        file.write(bytes(0x1000) + b"Linux version 6.1.0".ljust(0x1000, b"\x90") * 64)
        table = bytearray(PAGE)
        struct.pack_into("<Q", table, 0x888, file.tell() | 0x63)
        file.write(bytes(table))
        file.truncate(6 << 30)
    with pytest.raises(DumpFormatError, match=r"without a Windows kernel .all of it searched, 1 page table tried"):
        open_crashdump(str(path))


def test_a_header_that_windows_left_makes_a_search_needless(container, opened, machine):
    from pykdext.targets.dump.compressed import open_file
    from pykdext.targets.machine.containers import open_machine_image
    from pykdext.targets.machine.discovery import find_kernel

    with open_file(str(container("elf-note"))) as file:
        image = open_machine_image(file)
        reads = []
        read = image.memory.read_physical
        image.memory.read_physical = lambda address, size: reads.append(address >> 12) or read(address, size)
        image.memory.iter_pieces = None
        found = find_kernel(file, image)
    assert found.facts.image.found_by == "a dump's header in the file"
    assert len(set(reads)) <= 300
    assert found.facts.loaded_module_list == machine.kernel.base + machine.kernel.variables["PsLoadedModuleList"]


@pytest.mark.parametrize("encoded", [False, True])
def test_debugger_data_may_be_encoded(tmp_path, opened, encoded):
    from pykdext.kernel.kernel import open_kernel

    machine = make_machine(encoded_kdbg=encoded)
    path = tmp_path / "core.elf"
    elfcores.save_core(machine, path, with_header=True)
    dump = opened(path)
    open_kernel(dump)
    assert dump.symbol("PoolTrackTable") == machine.addresses["PoolTrackTable"]
    assert not dump.facts.warnings


@pytest.mark.parametrize(("build", "known"), [(19041, True), (9600, False)])
def test_a_machine_imaged_at_its_blue_screen_tells_the_stop_code(image, build, known):
    machine = make_machine(build=build, known_kernel=known)
    assert image(machine).facts.bugcheck is None
    address = machine.kernel.base + machine.kernel.variables["KiBugCheckData"]
    machine.write_virtual(address, struct.pack("<5Q", 0x9F, 3, 0xFFFFE00012345678, 0, 1))
    assert image(machine).facts.bugcheck == BugCheck(0x9F, (3, 0xFFFFE00012345678, 0, 1))


def test_a_torn_list_of_modules_is_read_from_both_ends(tmp_path, opened):
    machine = make_machine()
    name, *_ = machine.truth.modules[5]
    machine.write_virtual(machine.addresses[f"entry:{name}"], struct.pack("<Q", 0xFFFFF80011223344))
    path = tmp_path / "memory.raw"
    plain.save_raw(machine, path)
    dump = opened(path)
    assert len([module for module in dump.modules() if not module.unloaded]) == len(machine.truth.modules)
    assert any("broken" in warning for warning in dump.facts.warnings)


def test_a_clock_that_was_written_while_it_was_read_is_not_told(image):
    machine = make_machine()
    address = machine.kernel.architecture.shared_user_data + 0x14
    machine.write_virtual(address + 8, b"\xff")
    assert image(machine).facts.taken_at is None
