"""The kernel under all names of its file."""

from __future__ import annotations

import pytest

from pykdext.model.names import canonical_name, find_engine_name


@pytest.mark.parametrize("stem", ["ntoskrnl", "NTKRNLMP", "ntkrnlpa", "ntkrpamp", "ntkrla57", "nt"])
def test_the_kernel_is_nt_to_all(stem):
    assert canonical_name(f"{stem}.exe") == "nt"
    assert find_engine_name(f"{stem}.exe") == "nt"


def test_others_keep_their_names():
    assert (canonical_name("Ntfs.sys"), canonical_name("nt"), canonical_name("nt.sys")) == ("ntfs.sys", "nt", "nt.sys")
