"""Every way in which a tag reaches an allocator, on three architectures and at two levels: who is named, and why."""

from __future__ import annotations

import pytest

from dumps.drivers import mingw
from tests.helpers import idioms
from tests.helpers.idioms import ARCHITECTURES, IDIOMS, LEVELS, LIBRARY_TAGS, LOOK_ALIKES

pytest.importorskip("capstone")
pefile = pytest.importorskip("pefile")

VARIANTS = [(architecture, level) for architecture in ARCHITECTURES for level in LEVELS]
LEAST_FOUND, LEAST_PROVEN = 14, 10

every_variant = pytest.mark.parametrize(("architecture", "level"), VARIANTS)


@pytest.fixture(scope="module")
def find(tmp_path_factory):
    """What `find` says of all tags in a dump of a machine with the drivers of a variant; each is asked once."""
    found = {}

    def find_all(architecture, level, retpolines=None, paths=None):
        key = (architecture, level, retpolines, paths is None)
        if key not in found:
            folder = tmp_path_factory.mktemp("idioms")
            paths = paths or idioms.image_paths(architecture, level)
            idioms.forge_machine(architecture, paths, retpolines=retpolines).save(folder / "drivers.dmp")
            found[key] = idioms.find_owners(folder, folder / "drivers.dmp")
        return found[key]

    return find_all


@every_variant
def test_each_idiom_gets_the_grade_that_its_code_justifies(find, architecture, level):
    owners = find(architecture, level)
    assert idioms.wrong_grades(owners, idioms.idioms_of(architecture)) == []
    assert idioms.named_wrongly(owners) == []


@every_variant
def test_the_classical_idioms_are_found_and_mostly_proven(find, architecture, level):
    owners = find(architecture, level)
    grades = [idioms.grade_of(owners, idiom) for idiom in IDIOMS if idiom.classical]
    assert len(grades) == 14
    assert sum(found is not None for found in grades) >= LEAST_FOUND
    assert sum(found == "proven" for found in grades) >= LEAST_PROVEN


@every_variant
def test_proof_names_the_call(find, architecture, level):
    owners = find(architecture, level)
    for idiom in idioms.idioms_of(architecture):
        if idiom.weakest == "proven":
            evidence = owners[idiom.tag][idiom.driver]["evidence"]
            rvas = [item["rva"] for item in evidence if item["confidence"] == "proven"]
            assert idioms.call_rva(idiom.tag, architecture, level) in rvas, idiom


@every_variant
def test_what_only_looks_like_a_tag_has_no_likely_owner(find, architecture, level):
    assert idioms.wrong_grades(find(architecture, level), LOOK_ALIKES) == []


@every_variant
def test_tags_of_a_static_library_are_not_blamed_on_the_driver(find, architecture, level):
    owners = find(architecture, level)
    for tag in LIBRARY_TAGS:
        owner = owners[tag]["innocent"]
        assert owner["confidence"] == "possible", tag
        assert any("library" in item["detail"] for item in owner["evidence"]), tag


@pytest.mark.parametrize("retpolines", [False, True], ids=["direct", "retpoline"])
@pytest.mark.parametrize("level", LEVELS)
def test_an_import_call_that_the_kernel_rewrote_is_still_proof(find, level, retpolines):
    evidence = find("x64", level, retpolines)["Rptp"]["idioms"]["evidence"]
    assert idioms.call_rva("Rptp", "x64", level) + 7 in [
        item["rva"] for item in evidence if item["confidence"] == "proven"
    ]


@pytest.mark.parametrize("architecture", ["x64", "arm64"])
@pytest.mark.parametrize("level", LEVELS)
def test_calls_through_guards_of_the_kernel_are_still_proof(tmp_path, architecture, level):
    """A running kernel aims the pointers of control flow guard at functions of its own, which it does not export."""
    paths = idioms.image_paths(architecture, level)
    machine = idioms.forge_machine(architecture, paths)
    aim_guards_at_kernel(machine, paths[idioms.DRIVERS.index("framed")])
    machine.save(tmp_path / "guarded.dmp")
    owners = idioms.find_owners(tmp_path, tmp_path / "guarded.dmp")
    assert idioms.wrong_grades(owners, [idiom for idiom in IDIOMS if idiom.driver == "framed"]) == []


def aim_guards_at_kernel(machine, path):
    image = pefile.PE(str(path))
    guards = image.DIRECTORY_ENTRY_LOAD_CONFIG.struct
    base = next(base for name, base, *_ in machine.truth.modules if name == path.name)
    function = machine.addresses["function:ExAllocatePoolWithTag"] + 4  # in code, and nothing exported begins there
    for pointer in (guards.GuardCFCheckFunctionPointer, guards.GuardCFDispatchFunctionPointer):
        if pointer:
            machine.write_virtual(base + pointer - image.OPTIONAL_HEADER.ImageBase, function.to_bytes(8, "little"))


@every_variant
def test_files_on_disk_get_the_same_grades_as_far_as_code_tells(tmp_path, architecture, level):
    """What is written into the driver's memory at run time is missing: the fetched pointer, the table of KMDF."""
    options = [option for path in idioms.image_paths(architecture, level) for option in ("--images", path)]
    owners = idioms.find_owners(tmp_path, *options)
    at_run_time = {"Dyna", "FrmM", "FrmL", "FrmD"}
    assert (
        idioms.wrong_grades(owners, [idiom for idiom in idioms.idioms_of(architecture) if idiom.tag not in at_run_time])
        == []
    )
    assert all(idioms.grade_of(owners, idiom) for idiom in IDIOMS if idiom.tag in at_run_time)


@pytest.mark.parametrize(
    ("architecture", "level"),
    [("x64", "O1"), ("x64", "O2"), ("x64", "Os"), ("x86", "O1"), ("x86", "O2"), ("x86", "Os")],
)
def test_code_of_another_compiler(find, tmp_path, architecture, level):
    """Gcc makes SelR and Ari0 out of the other tag, and at -Os FrmD by a shift: no bytes of them are left.

    For x86 it stores arguments instead of pushing them, aligns the arms of switches, and jumps to wrappers whose
    arguments are in registers of its choice.
    """
    if not mingw.is_available(architecture):
        pytest.skip(f"MinGW's gcc for {architecture} is not installed")
    owners = find(architecture, level, paths=mingw.build_images(tmp_path, level, architecture))
    assert idioms.wrong_grades(owners, idioms.idioms_of(architecture)) == []
    assert idioms.wrong_grades(owners, LOOK_ALIKES) == []
    assert idioms.named_wrongly(owners) == []
