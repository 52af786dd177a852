"""Builds the sample drivers for x64, x86 and ARM64 with the Zig toolchain of PyPI (``ziglang``).

``python -m dumps.drivers.build`` writes ``images/<architecture>/<name>.sys``; ``--check`` builds too, but
only compares the result with the files that are there. The same sources always give the same bytes: nothing
of the machine, the path or the time of the build enters an image, nor its PDB, whose hash the linker takes as
the image's identity. Objects and PDBs stay in ``build/``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ZIGLANG_VERSION = "0.17.1"
"""The release whose output is committed; another one may choose other instructions."""

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
IMAGES = HERE / "images"
BUILD = HERE / "build"

COMPANY = "poolleak sample drivers"


class Architecture(NamedTuple):
    """What each of the tools calls one processor architecture, and the flags that it alone needs.

    x86 drivers may not use SSE registers, and keep the driver kit's default calling convention, stdcall. Their
    kernel knows no control flow guard.
    """

    name: str
    triple: str
    dlltool_machine: str
    linker_machine: str
    compiler_flags: tuple[str, ...] = ()
    guard_flags: tuple[str, ...] = ()


class Driver(NamedTuple):
    """One driver: its source is ``src/<source>.c``, its image ``<name>.sys``; ``level`` is what it is optimised for.

    ``guarded`` is it by control flow guard, where there is one.
    """

    name: str
    product: str
    description: str
    version: tuple[int, int, int, int]
    libraries: tuple[str, ...] = ("ntoskrnl",)
    source: str = ""
    level: str = "O2"
    guarded: bool = False


GUARD_FLAGS = ("-Xclang", "-cfguard")

ARCHITECTURES = (
    Architecture("x64", "x86_64-windows-msvc", "i386:x86-64", "x64", guard_flags=GUARD_FLAGS),
    Architecture("x86", "x86-windows-msvc", "i386", "x86", ("-mcpu=i686", "-mrtd")),
    Architecture("arm64", "aarch64-windows-msvc", "arm64", "arm64", guard_flags=GUARD_FLAGS),
)

LEVELS = ("O2", "Os")
"""Optimised for speed and for size: the compiler hands over constants in different ways."""

KERNEL = ("ntoskrnl", "allocators")
PORTS = (*KERNEL, "fltmgr", "filterpool", "ndis", "storport", "videoprt")

IDIOM_DRIVERS = (
    Driver("idioms", "Idioms Recorder", "Idioms record keeping driver", (1, 0, 0, 0), KERNEL),
    Driver("ports", "Ports Gateway", "Ports gateway driver", (1, 2, 0, 0), PORTS),
    Driver("framed", "Framed Device", "Framed device driver", (2, 1, 0, 0), ("wdfldr",), guarded=True),
    Driver("innocent", "Innocent Pictures", "Innocent picture cache driver", (3, 0, 1, 0), KERNEL),
    Driver("byways", "Byways Journal", "Byways journal driver", (1, 3, 0, 0), KERNEL),
    Driver("lanes", "Lanes Dispatcher", "Lanes dispatcher driver", (1, 1, 0, 0), (*KERNEL, "lanes")),
    Driver("depots", "Depots Storage", "Depots storage driver", (1, 0, 2, 0), KERNEL),
    Driver("shelves", "Shelves Archive", "Shelves archive driver", (2, 2, 0, 0), KERNEL),
)
"""Every way in which a tag reaches an allocator, and much that only looks like one: built at each of ``LEVELS``."""

DRIVERS = (
    Driver("pippo", "Pippo Request Monitor", "Pippo request monitor driver", (1, 4, 2, 0)),
    Driver("pagella", "Pagella Reports", "Pagella report page driver", (2, 0, 11, 0)),
    Driver("lookas", "Lookas Packet Queue", "Lookas packet queue driver", (3, 1, 0, 7)),
    Driver("globus", "Globus Maps", "Globus map tile cache driver", (5, 2, 0, 0)),
    Driver("ctxreg", "Ctxreg Handle Monitor", "Ctxreg handle monitor filter", (1, 0, 3, 0), ("fltmgr",)),
    Driver("twinone", "Twin Journal", "Twin write journal driver", (2, 9, 4, 0)),
    Driver("twintwo", "Twin Image Watch", "Twin image watch driver", (4, 1, 0, 0)),
    Driver("holder", "Holder Session Audit", "Holder session audit driver", (1, 1, 6, 0)),
    *(
        driver._replace(name=f"{driver.name}-{level}", source=driver.name, level=level)
        for driver in IDIOM_DRIVERS
        for level in LEVELS
    ),
)

COMPILER_FLAGS = (
    *("-std=c11", "-ffreestanding", "-Wall", "-Wextra", "-Werror", "-Wno-four-char-constants"),
    *("-fno-vectorize", "-fno-unroll-loops", "-fomit-frame-pointer"),
    *("-fno-stack-protector", "-fno-sanitize=all"),
    *("-g", "-gcodeview", "-gno-codeview-command-line", "-ffile-compilation-dir=."),
    f"-ffile-prefix-map={SOURCES}=.",
)

LINKER_FLAGS = (
    *("/nologo", "/nodefaultlib", "/driver", "/subsystem:native,10.0", "/entry:DriverEntry"),
    *("/section:INIT,ERD", "/opt:ref", "/release", "/debug", "/Brepro", "/pdbsourcepath:drivers"),
)

RESOURCE = """\
1 VERSIONINFO
FILEVERSION {commas}
PRODUCTVERSION {commas}
FILEFLAGSMASK 0x3F
FILEOS 0x40004
FILETYPE 3
FILESUBTYPE 7
{{
  BLOCK "StringFileInfo"
  {{
    BLOCK "040904B0"
    {{
      VALUE "CompanyName", "{company}"
      VALUE "FileDescription", "{driver.description}"
      VALUE "FileVersion", "{dots}"
      VALUE "InternalName", "{driver.name}.sys"
      VALUE "OriginalFilename", "{driver.name}.sys"
      VALUE "ProductName", "{driver.product}"
      VALUE "ProductVersion", "{dots}"
    }}
  }}
  BLOCK "VarFileInfo"
  {{
    VALUE "Translation", 0x409, 0x4B0
  }}
}}
"""


class BuildError(Exception):
    """The toolchain is not there, is another release than the pinned one, or refused a source."""


def build_images(folder: Path) -> dict[str, bytes]:
    """Builds every driver for every architecture below ``folder``: ``"x64/pippo.sys"`` to the image's bytes.

    Objects, import libraries and PDBs stay in ``folder``. Raises ``BuildError``.
    """
    _require_toolchain()
    images = {}
    for architecture in ARCHITECTURES:
        objects = folder / architecture.name
        objects.mkdir(parents=True, exist_ok=True)
        for definition in sorted(SOURCES.glob("*.def")):
            _make_import_library(architecture, definition, objects)
        for driver in DRIVERS:
            image = _build_driver(architecture, driver, objects)
            images[f"{architecture.name}/{image.name}"] = image.read_bytes()
    return images


def find_differences(images: dict[str, bytes]) -> list[str]:
    """Names that are missing below ``images/``, have other bytes there, or are there but were not built."""
    present = {path.relative_to(IMAGES).as_posix(): path.read_bytes() for path in IMAGES.glob("*/*.sys")}
    return sorted(name for name in images.keys() | present.keys() if images.get(name) != present.get(name))


def save_images(images: dict[str, bytes]) -> None:
    """Writes the images to their places below ``images/``."""
    for name, content in images.items():
        path = IMAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _require_toolchain() -> None:
    wanted = f"ziglang {ZIGLANG_VERSION} is needed: pip install ziglang=={ZIGLANG_VERSION}"
    try:
        found = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(f"{wanted} (found none)") from None
    if found != ZIGLANG_VERSION:
        raise BuildError(f"{wanted} (found {found})")


def _make_import_library(architecture: Architecture, definition: Path, objects: Path) -> None:
    """Only x86 decorates names (``Name@8``, ``@Name@8``); the other architectures use them bare."""
    text = definition.read_text(encoding="ascii")
    if architecture.name != "x86":
        text = re.sub(r"^(\s+)@?(\w+)@\d+$", r"\1\2", text, flags=re.MULTILINE)
    (objects / definition.name).write_text(text, encoding="ascii")
    library = f"{definition.stem}.lib"
    _zig(objects, "dlltool", "-k", "-m", architecture.dlltool_machine, "-d", definition.name, "-l", library)


def _build_driver(architecture: Architecture, driver: Driver, objects: Path) -> Path:
    name = driver.name
    (objects / f"{name}.rc").write_text(_render_version_resource(driver), encoding="ascii")
    _zig(objects, "rc", "/:no-preprocess", "/fo", f"{name}.res", "--", f"{name}.rc")
    source, target = str(SOURCES / f"{driver.source or name}.c"), f"{name}.obj"
    debug_name = ("-Xclang", f"-object-file-name={target}")
    flags = ("-target", architecture.triple, f"-{driver.level}", *COMPILER_FLAGS, *architecture.compiler_flags)
    guard_flags = architecture.guard_flags if driver.guarded else ()
    _zig(objects, "cc", *flags, *guard_flags, *debug_name, "-c", source, "-o", target)
    outputs = (f"/out:{name}.sys", f"/pdb:{name}.pdb", f"/pdbaltpath:{name}.pdb")
    machine = f"/machine:{architecture.linker_machine}"
    inputs = (target, f"{name}.res", *(f"{library}.lib" for library in driver.libraries))
    _zig(objects, "lld-link", *LINKER_FLAGS, machine, *outputs, *inputs)
    return objects / f"{name}.sys"


def _render_version_resource(driver: Driver) -> str:
    parts = [str(part) for part in driver.version]
    return RESOURCE.format(driver=driver, company=COMPANY, commas=",".join(parts), dots=".".join(parts))


def _zig(folder: Path, *arguments: str) -> None:
    """Runs one of Zig's tools in ``folder``. The cache is kept: it holds Zig's compiled resource compiler."""
    cache = str(BUILD / "cache")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    command = [sys.executable, "-m", "ziglang", *arguments]
    try:
        subprocess.run(command, cwd=folder, env=environment, check=True)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"zig {arguments[0]} failed in {folder}: {error}") from error


def main() -> int:
    """Exit status: 0 done; 1 ``--check`` found differences, or the build failed."""
    parser = argparse.ArgumentParser(prog="python -m dumps.drivers.build", description="Builds the drivers.")
    parser.add_argument("--check", action="store_true", help="compare with the present images, write none")
    check = parser.parse_args().check
    try:
        images = build_images(BUILD)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    differences = find_differences(images)
    if not check:
        save_images(images)
    for name in differences:
        print(f"{name}: {'differs' if check else 'written'}")
    print(f"{len(images)} images built, {len(images) - len(differences)} as before")
    return 1 if check and differences else 0


if __name__ == "__main__":
    sys.exit(main())
