"""Builds the idiom drivers with MinGW's gcc too, where it is installed: other instructions of the same sources.

These images are not kept: which bytes come out depends on the gcc of the machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import List

from dumps.drivers.build import IDIOM_DRIVERS, SOURCES, BuildError

LEVELS = ("O0", "O1", "O2", "Os")
"""Not optimised, and optimised in three ways."""

_PREFIXES = {"x64": "x86_64-w64-mingw32-", "x86": "i686-w64-mingw32-"}

_FLAGS = (
    *("-std=gnu11", "-ffreestanding", "-nostdlib", "-Wno-multichar", "-fno-ident", "-fomit-frame-pointer"),
    *("-fno-stack-protector", "-s"),
    *("-Wl,--subsystem,native", "-Wl,--dynamicbase"),
)
_OWN_FLAGS = {
    "x64": ("-Wl,--entry,DriverEntry", "-Wl,--image-base,0x140000000"),
    "x86": ("-m32", "-mrtd", "-mgeneral-regs-only", "-Wl,--entry,_DriverEntry@8", "-Wl,--image-base,0x10000"),
}
_DECORATED = {"x64": r"^(\s+)@?(\w+)@\d+$", "x86": r"^(\s+)(\w+)@\d+$"}
"""Names whose decoration is left out: ``-mrtd`` decorates none, only fastcall functions have their own."""

_LIBRARY_FLAGS = {"x64": (), "x86": ("--kill-at",)}


def is_available(architecture: str = "x64") -> bool:
    """Whether gcc and its tools are installed for ``x64`` or ``x86``."""
    return all(shutil.which(_PREFIXES[architecture] + tool) for tool in ("gcc", "dlltool"))


def build_images(folder: Path, level: str, architecture: str = "x64") -> List[Path]:
    """Build every idiom driver at one of ``LEVELS`` into ``folder`` and return the files; BuildError."""
    prefix = _PREFIXES[architecture]
    for definition in sorted(SOURCES.glob("*.def")):
        text = definition.read_text(encoding="ascii")
        text = re.sub(_DECORATED[architecture], r"\1\2", text, flags=re.MULTILINE)
        (folder / definition.name).write_text(text, encoding="ascii")
        library = ("-d", definition.name, "-l", f"lib{definition.stem}.a", *_LIBRARY_FLAGS[architecture])
        _run(folder, prefix + "dlltool", *library)
    images = []
    for driver in IDIOM_DRIVERS:
        image = folder / f"{driver.name}-{level}.sys"
        libraries = [f"-l{library}" for library in driver.libraries]
        source = str(SOURCES / f"{driver.name}.c")
        flags = (f"-{level}", *_FLAGS, *_OWN_FLAGS[architecture])
        _run(folder, prefix + "gcc", *flags, source, "-o", image.name, "-L.", *libraries)
        images.append(image)
    return images


def _run(folder: Path, *command: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{command[0]} failed: {error.stderr}") from error
