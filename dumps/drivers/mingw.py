"""Builds the idiom drivers for x64 with MinGW's gcc too, where it is installed: other instructions of the same sources.

These images are not kept: which bytes come out depends on the gcc of the machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import List

from dumps.drivers.build import IDIOM_DRIVERS, SOURCES, BuildError

COMPILER = "x86_64-w64-mingw32-gcc"
LIBRARIAN = "x86_64-w64-mingw32-dlltool"

_FLAGS = (
    *("-std=gnu11", "-ffreestanding", "-nostdlib", "-Wno-multichar", "-fno-ident", "-fomit-frame-pointer"),
    *("-fno-stack-protector", "-s"),
    *("-Wl,--subsystem,native", "-Wl,--entry,DriverEntry", "-Wl,--dynamicbase", "-Wl,--image-base,0x140000000"),
)


def is_available() -> bool:
    """Whether gcc and its tools are installed."""
    return shutil.which(COMPILER) is not None and shutil.which(LIBRARIAN) is not None


def build_images(folder: Path, level: str) -> List[Path]:
    """Build every idiom driver at a level (``O2``, ``Os``) into ``folder`` and return the files; BuildError."""
    for definition in sorted(SOURCES.glob("*.def")):
        text = re.sub(r"^(\s+)@?(\w+)@\d+$", r"\1\2", definition.read_text(encoding="ascii"), flags=re.MULTILINE)
        (folder / definition.name).write_text(text, encoding="ascii")
        _run(folder, LIBRARIAN, "-d", definition.name, "-l", f"lib{definition.stem}.a")
    images = []
    for driver in IDIOM_DRIVERS:
        image = folder / f"{driver.name}-{level}.sys"
        libraries = [f"-l{library}" for library in driver.libraries]
        source = str(SOURCES / f"{driver.name}.c")
        _run(folder, COMPILER, f"-{level}", *_FLAGS, source, "-o", image.name, "-L.", *libraries)
        images.append(image)
    return images


def _run(folder: Path, *command: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{command[0]} failed: {error.stderr}") from error
