"""Drivers that nobody here wrote: WinDivert of PyPI's pydivert, the kernel modules of Debian's libwine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WINE = sorted(Path("/usr/lib").glob("*/wine/*-windows/*.sys")) + sorted(Path("/usr/lib").glob("*/wine/*/ntoskrnl.exe"))


def fetch_windivert(folder, version):
    """The driver files in a release of pydivert, unpacked below ``folder``; the test is left out where none arrives."""
    options = ["--no-deps", "--only-binary=:all:", "--platform", "win_amd64", "--python-version", "3.12"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), *options]
    try:
        done = subprocess.run([*command, f"pydivert=={version}"], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the wheel of pydivert {version} did not arrive within two minutes")
    if done.returncode:
        pytest.skip(f"pydivert {version} cannot be downloaded: no network, or no index that has it")
    (wheel,) = Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        drivers = [Path(archive.extract(name, folder)) for name in archive.namelist() if name.endswith(".sys")]
    assert drivers
    return sorted(drivers)
