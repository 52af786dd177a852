"""Evidence that needs no code: lookaside lists whose driver is known, and Driver Verifier's records."""

from __future__ import annotations

from typing import Dict, List, Sequence

from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import Confidence, Evidence, PoolTag
from pykdext.model.evidencekinds import EvidenceKind
from pykdext.model.objects import LookasideList
from pykdext.model.traces import TrackedCaller
from pykdext.pipeline.evidence import FoundContents
from pykdext.units import count_things, format_count


def find_object_evidence(space: ObjectSpace, tags: Sequence[PoolTag]) -> FoundContents:
    """Of each tag the drivers that keep lookaside lists of it, or that Driver Verifier saw allocate with it."""
    found: Dict[PoolTag, List[Evidence]] = {}
    logged: Dict[PoolTag, List[Evidence]] = {}
    for item in space.find_lookasides(tags):
        if item.module is not None:
            found.setdefault(item.tag, []).append(_describe_list(item, item.module))
    for driver in space.verifier.drivers:
        for caller in driver.callers:
            if caller.tag in tags:
                found.setdefault(caller.tag, []).append(_describe_caller(caller))
    warnings = [*space.lookasides.warnings, *space.verifier.warnings]
    if space.pool_traces is not None:
        warnings += space.pool_traces.warnings
        for caller in space.pool_traces.find_callers(tags):
            if all(evidence.kind is not EvidenceKind.VERIFIER for evidence in found.get(caller.tag, ())):
                logged.setdefault(caller.tag, []).append(_describe_caller(caller))
    for tag, items in logged.items():
        found.setdefault(tag, []).extend(items)
    return FoundContents({tag: tuple(items) for tag, items in found.items()}, tuple(warnings) if found else ())


def _describe_list(item: LookasideList, module: str) -> Evidence:
    detail = (
        f"a lookaside list of it ({item.proof}) has given out {count_things(item.in_use, 'block')}, and took "
        f"{format_count(item.taken)} from pool"
    )
    confidence = Confidence.PROVEN if item.is_proven else Confidence.POSSIBLE
    return Evidence(item.tag, module, EvidenceKind.LOOKASIDE, confidence, detail, item.rva)


def _describe_caller(caller: TrackedCaller) -> Evidence:
    """A record of an allocation is proof; in the log, which holds frees too, another driver may have come after it."""
    confidence = Confidence.LIKELY if caller.is_logged else Confidence.PROVEN
    detail = f"Driver Verifier tracked {count_things(caller.blocks, 'outstanding allocation')} to this place"
    if caller.is_logged:
        detail = f"in Driver Verifier's log the last call for {count_things(caller.blocks, 'block')} in use is here"
    return Evidence(caller.tag, caller.module, EvidenceKind.VERIFIER, confidence, detail, caller.rva)
