"""The processors whose code is searched for calls and references: one row for each."""

from __future__ import annotations

from pykdext.attribution.calls import arm64, intel
from pykdext.attribution.calls.codereader import CodeReader
from pykdext.model import Machine, MachineTable

PROCESSORS = MachineTable(
    "the search of code for calls",
    {
        Machine.X64: CodeReader(intel.iter_calls, intel.iter_relative, intel.IntelNumbers),
        Machine.X86: CodeReader(intel.iter_calls, intel.iter_absolute, intel.IntelNumbers),
        Machine.ARM64: CodeReader(arm64.iter_calls, arm64.iter_references, arm64.Arm64Numbers),
    },
)
