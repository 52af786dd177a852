"""The values that flow through pykdext: frozen, without I/O. Absent is None, never 0.

Counts are exact integers; sizes are in bytes, times in seconds, moments are aware datetimes in UTC.
"""

from __future__ import annotations

from pykdext.model.growth import (
    Change,
    Diff,
    LockstepGroup,
    LockstepMember,
    Segment,
    Slope,
    TagDelta,
    Trend,
    TrendReport,
    Verdict,
)
from pykdext.model.owners import (
    Confidence,
    Evidence,
    ImageCoverage,
    ImageVersion,
    Owner,
    TagDescription,
    TagLookup,
    TagOwners,
)
from pykdext.model.pool import (
    PROTECTED_POOL,
    UNUSED,
    Allocation,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    SystemMemory,
    TableCoverage,
    TagUsage,
    UsageRow,
)
from pykdext.model.report import BlockReport, BlockView, DumpSummary, LeakReport, NextStep, PoolTotal, Role, Suspect
from pykdext.model.target import BugCheck, FieldLayout, Machine, Module, TargetFacts, TypeLayout

__all__ = [
    "PROTECTED_POOL",
    "UNUSED",
    "Allocation",
    "BlockReport",
    "BlockView",
    "BugCheck",
    "Change",
    "Confidence",
    "Diff",
    "DumpSummary",
    "Evidence",
    "FieldLayout",
    "ImageCoverage",
    "ImageVersion",
    "LeakReport",
    "LockstepGroup",
    "LockstepMember",
    "Machine",
    "Module",
    "NextStep",
    "Owner",
    "PoolKind",
    "PoolSnapshot",
    "PoolTag",
    "PoolTotal",
    "PoolUsage",
    "Role",
    "Segment",
    "Slope",
    "SnapshotSource",
    "Suspect",
    "SystemMemory",
    "TableCoverage",
    "TagDelta",
    "TagDescription",
    "TagLookup",
    "TagOwners",
    "TagUsage",
    "TargetFacts",
    "Trend",
    "TrendReport",
    "TypeLayout",
    "UsageRow",
    "Verdict",
]
