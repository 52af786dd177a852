"""The processors whose code is searched for calls and references: one row for each."""

from __future__ import annotations

from pykdext.attribution.calls import arm64, intel
from pykdext.attribution.calls.arm64 import Arm64Makers, Arm64Numbers, PagedOperands
from pykdext.attribution.calls.codereader import CodeReader
from pykdext.attribution.calls.intel import AbsoluteOperands, RelativeOperands
from pykdext.attribution.calls.intelnumbers import IntelMakers, IntelNumbers
from pykdext.model import Machine, MachineTable

_INTEL_NUMBERS = (IntelNumbers.read, IntelNumbers.parse, IntelMakers)

PROCESSORS = MachineTable(
    "the search of code for calls",
    {
        Machine.X64: CodeReader(intel.iter_calls, RelativeOperands, *_INTEL_NUMBERS),
        Machine.X86: CodeReader(intel.iter_calls, AbsoluteOperands, *_INTEL_NUMBERS),
        Machine.ARM64: CodeReader(arm64.iter_calls, PagedOperands, Arm64Numbers.read, Arm64Numbers.parse, Arm64Makers),
    },
)
