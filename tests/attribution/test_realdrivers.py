"""Owners in drivers that nobody here wrote: WinDivert of PyPI's pydivert, the kernel modules of Debian's libwine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pykdext.cli.main import main

WINE = sorted(Path("/usr/lib").glob("*/wine/*-windows/*.sys")) + sorted(Path("/usr/lib").glob("*/wine/*/ntoskrnl.exe"))

COMMON_TAGS = re.findall(
    r"\w+",
    """
    AfdB AfdC ALPC CcSc CM25 CM31 Cont Devi Driv Dump EtwB EtwR Even File FMfn FMsl FxDr Hal HidC IoNm Irp Key LSwi Mdl
    MmCa MmSt Mutn NDnd NbtC Ntff NtFs ObDi ObNm Pool PooL Proc Sect SeAc Sema Sess Strm Symb TcpE Thre Toke Usbd UdpA
    VadS Vad Wdf
    """,
)


def find(capsys, *words):
    assert main(["find", *map(str, words), "--format", "json"]) in (0, 1)
    return {entry["tag"]: entry["owners"] for entry in json.loads(capsys.readouterr().out)["tags"]}


@pytest.mark.parametrize("version", ["2.1.0", "4.0.1"])
def test_windivert_is_proven_to_own_its_tag(version, tmp_path, capsys):
    options = ["--no-deps", "--only-binary=:all:", "--platform", "win_amd64", "--python-version", "3.12"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(tmp_path), *options]
    try:
        done = subprocess.run([*command, f"pydivert=={version}"], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the wheel did not arrive within two minutes")
    if done.returncode:
        pytest.skip(f"pydivert {version} cannot be downloaded")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        drivers = [archive.extract(name, tmp_path) for name in archive.namelist() if name.endswith(".sys")]
    assert drivers
    owners = find(capsys, "WDiv", "--images", tmp_path)["WDiv"]
    assert {owner["module"] for owner in owners} == {Path(driver).name for driver in drivers}
    for owner in owners:
        assert owner["confidence"] == "proven"
        assert owner["part_of_windows"] is False
        proofs = [item for item in owner["evidence"] if item["confidence"] == "proven"]
        assert all(item["kind"] == "call" and "ExAllocatePool" in item["detail"] for item in proofs)


@pytest.mark.skipif(len(WINE) < 10, reason="the kernel modules of libwine are not installed")
def test_wine_owns_no_common_tag(capsys):
    options = [option for path in WINE for option in ("--images", path)]
    assert len(COMMON_TAGS) == 50
    for tag, owners in find(capsys, *COMMON_TAGS, *options).items():
        sure = [owner["module"] for owner in owners if owner["confidence"] != "possible"]
        assert sure == [], tag
