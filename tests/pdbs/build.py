"""Builds PDBs with clang and lld of the Zig toolchain: kernels after their ISF files, and shapes of code.

``python -m tests.pdbs.build ISF...`` writes ``tests/pdbs/<version>.pdb.xz`` for each file: the structures that the
tool reads, and the kernel's pool variables at their true addresses. Every field stands alone in a packed structure
behind as many bytes as lie before it, and all those are one union: so the compiler cannot choose an offset itself.
It also builds shapes.c and methods.cpp, and with the sample drivers the PDBs of one of them. The same sources always
give the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dumps.drivers import build as drivers

HERE = Path(__file__).resolve().parent
SHAPES = (("shapes.c", "x64"), ("shapes.c", "x86"), ("methods.cpp", "x64"))
DRIVER = "idioms-O2"
FIRST_DATA_RVA = 0x2000
"""Where lld puts .bss in an image without code: behind a page of headers and a page of read-only data."""
IMAGE_BYTES = 0x1000000

TYPES = (
    "_POOL_TRACKER_TABLE",
    "_POOL_TRACKER_BIG_PAGES",
    "_POOL_HEADER",
    "_POOL_DESCRIPTOR",
    "_LDR_DATA_TABLE_ENTRY",
    "_KLDR_DATA_TABLE_ENTRY",
    "_MMPTE",
)

MACHINES = {"x64": "x86_64-windows-msvc", "x86": "x86-windows-msvc"}

COMPILER_FLAGS = (
    *("-ffreestanding", "-Wno-everything", "-ffile-compilation-dir=.", "-g", "-gcodeview"),
    *("-gno-codeview-command-line", "-fno-sanitize=all", "-O1", "-Xclang", "-object-file-name=source.obj"),
    *("-fno-exceptions", "-fno-rtti"),
)
LINKER_FLAGS = (
    *("/nologo", "/nodefaultlib", "/dll", "/noentry", "/debug", "/Brepro", "/pdbsourcepath:pdbs"),
    *("/out:image.dll", "/pdb:image.pdb", "/pdbaltpath:image.pdb"),
)

_BASE_TYPES = {"wchar": "__WCHAR_TYPE__", "HRESULT": "long", "f32": "float"}


def has_toolchain() -> bool:
    return importlib.util.find_spec("ziglang") is not None


def build_pdb(source: str, machine: str, folder: Path, suffix=".c") -> bytes:
    """The PDB of a source; everything else stays in ``folder``."""
    name = f"source{suffix}"
    (folder / name).write_text(source, encoding="utf-8")
    _zig(folder, "cc", "-target", MACHINES[machine], *COMPILER_FLAGS, "-c", name, "-o", "source.obj")
    _zig(folder, "lld-link", *LINKER_FLAGS, f"/machine:{machine}", "source.obj")
    return (folder / "image.pdb").read_bytes()


def build_kernel(isf, names, folder: Path) -> bytes:
    """The PDB of a kernel with the structures ``names`` and the pool variables of ``isf``."""
    return build_pdb(render_source(isf, names, pool_variables(isf)), "x64", folder)


def build_shapes(source: str, machine: str, folder: Path) -> bytes:
    """The PDB of a source file beside this one."""
    path = HERE / source
    return build_pdb(path.read_text(encoding="utf-8"), machine, folder, path.suffix)


def render_source(isf, names, addresses) -> str:
    """C with the structures ``names`` (and those inside them) and the variables ``addresses`` (name to RVA)."""
    ordered = order_types(isf["user_types"], names)
    lines = [f"enum {identifier(name)} {{ {identifier(name)}_first }};" for name in isf["enums"]]
    lines += [
        "#pragma pack(push, 1)",
        *(_render_type(isf["user_types"], name) for name in ordered),
        "#pragma pack(pop)",
    ]
    lines += [f"{_tag(isf['user_types'][name]['kind'], name)} one_{identifier(name)};" for name in ordered]
    lines.append('__asm__(".section .bss\\nimage:\\n"')
    for name, rva in sorted(addresses.items()):
        lines.append(f'".globl {name}\\n{name} = image + {rva - FIRST_DATA_RVA}\\n"')
    lines.append(f'".zero {IMAGE_BYTES}\\n");')
    return "\n".join(lines) + "\n"


def order_types(user_types, names):
    """``names`` and every structure inside them, each behind those that it holds."""
    ordered = {}

    def add(name):
        if name not in ordered and name in user_types:
            for field in user_types[name]["fields"].values():
                inner = field["type"]
                while inner["kind"] in ("array", "bitfield"):
                    inner = inner["subtype" if inner["kind"] == "array" else "type"]
                if inner["kind"] in ("struct", "union", "class"):
                    add(inner["name"])
            ordered[name] = None

    for name in names:
        add(name)
    return list(ordered)


def _render_type(user_types, name):
    described = user_types[name]
    members = [f"unsigned char __whole[{described['size']}];"]
    for number, (field, place) in enumerate(described["fields"].items()):
        skipped = f"unsigned char __skipped{number}[{place['offset']}]; " if place["offset"] else ""
        members.append(f"struct {{ {skipped}{_render_field(place['type'], field)} }};")
    lines = "\n  ".join(members)
    if described["kind"] == "union":
        return f"{_tag('union', name)} {{\n  {lines}\n}};"
    return f"{_tag('struct', name)} {{ union {{\n  {lines}\n}}; }};"


def _render_field(described, declarator):
    kind = described["kind"]
    if kind == "array":
        return _render_field(described["subtype"], f"{declarator}[{described['count']}]")
    if kind == "bitfield":
        unit = _render_field(described["type"], "").rstrip("; ")
        skipped = f"{unit} : {described['bit_position']}; " if described["bit_position"] else ""
        return f"{skipped}{unit} {declarator} : {described['bit_length']};"
    if kind == "pointer":
        inner = described["subtype"]
        target = _tag(inner["kind"], inner["name"]) if inner["kind"] in ("struct", "union") else "void"
        return f"{target} *{declarator};"
    if kind == "base":
        return f"{_BASE_TYPES.get(described['name'], described['name'])} {declarator};"
    return f"{_tag(kind, described['name'])} {declarator};"


def identifier(name) -> str:
    """The name in C: some of Microsoft's are no identifiers (``<unnamed-tag>``)."""
    return re.sub(r"\W", "_", name)


def _tag(kind, name):
    return f"{kind} {identifier(name)}"


def read_isf(path: Path):
    return json.loads(lzma.decompress(path.read_bytes()))


def kernel_version(path: Path) -> str:
    return re.search(r"_(\d+(?:\.\d+)+)_", path.name).group(1)


def pool_variables(isf):
    """The kernel variables that the table of known kernels lists, as far as this kernel has them."""
    table = json.loads((HERE.parent.parent / "pykdext" / "symbols" / "data" / "kernels.json").read_text())
    return {name: isf["symbols"][name]["address"] for name in table["names"] if name in isf["symbols"]}


def _zig(folder: Path, *arguments: str) -> None:
    environment = dict(os.environ)
    for which in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        environment.setdefault(which, str(folder / "cache"))
    subprocess.run([sys.executable, "-m", "ziglang", *arguments], cwd=folder, env=environment, check=True)


def _save(name: str, pdb: bytes) -> None:
    packed = lzma.compress(pdb, preset=9 | lzma.PRESET_EXTREME)
    (HERE / f"{name}.pdb.xz").write_bytes(packed)
    print(f"{name}: {len(pdb)} bytes, {len(packed)} packed")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, sys.argv[1:]):
            _save(kernel_version(path), build_kernel(read_isf(path), TYPES, Path(folder)))
        for source, machine in SHAPES:
            _save(f"{Path(source).stem}-{machine}", build_shapes(source, machine, Path(folder)))
        drivers.build_images(Path(folder))
        for architecture in drivers.ARCHITECTURES:
            pdb = Path(folder, architecture.name, f"{DRIVER}.pdb")
            _save(f"{DRIVER}-{architecture.name}", pdb.read_bytes())


if __name__ == "__main__":
    main()
