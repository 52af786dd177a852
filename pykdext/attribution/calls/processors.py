"""The processors whose code is searched for calls and references: one row for each."""

from __future__ import annotations

from pykdext.attribution.calls import arm64, intel
from pykdext.attribution.calls.arm64 import Arm64Numbers
from pykdext.attribution.calls.codereader import CodeReader
from pykdext.attribution.calls.intel import IntelNumbers
from pykdext.model import Machine, MachineTable

PROCESSORS = MachineTable(
    "the search of code for calls",
    {
        Machine.X64: CodeReader(
            intel.iter_calls, intel.iter_relative, intel.iter_relative_stores, IntelNumbers.read, IntelNumbers.parse
        ),
        Machine.X86: CodeReader(
            intel.iter_calls, intel.iter_absolute, intel.iter_absolute_stores, IntelNumbers.read, IntelNumbers.parse
        ),
        Machine.ARM64: CodeReader(
            arm64.iter_calls, arm64.iter_references, arm64.iter_stores, Arm64Numbers.read, Arm64Numbers.parse
        ),
    },
)
