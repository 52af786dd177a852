"""Names of stop codes."""

from __future__ import annotations

import pytest

from pykdext.model.bugchecks import name_bugcheck


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0xE2, "MANUALLY_INITIATED_CRASH"),
        (0x80, "NMI_HARDWARE_FAILURE"),
        (0x7E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED"),
        (0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M"),
        (0xDEADDEAD, "MANUALLY_INITIATED_CRASH1"),
        (0x12345678, None),
        (0, None),
    ],
)
def test_what_is_known_has_its_name(code, name):
    assert name_bugcheck(code) == name
