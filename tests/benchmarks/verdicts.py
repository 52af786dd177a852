"""How often the verdict on one state is right: healthy machines and leaks, pasted and invented, by threshold.

A hit names a leaking tag as the first suspect; a leak of which another tag is first is counted apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Tuple

from tabulate import tabulate

from pykdext.attribution.taglists import TagLists, load_knowntags
from pykdext.growth import find_notable, ranking
from pykdext.model import Confidence, Evidence, EvidenceKind, LeakReport, Owner, PoolTag, TagOwners
from pykdext.pipeline.evidence import NO_CONTENTS
from pykdext.pipeline.verdict import judge_state
from pykdext.pipeline.weighing import weigh_owners
from tests.benchmarks.results import Report
from tests.helpers.poolstates import KnownState, iter_states

_THRESHOLDS = (3, 4, 5, 6, 7, 8, 9)


def run(folder: Path, rounds: int, quick: bool = False, slow: bool = False) -> Report:
    """Judge every state at every threshold, and list what the shipped one gets wrong."""
    del folder, rounds, quick, slow
    states = list(iter_states())
    owners = {state.name: know_owners(state) for state in states}
    rows: List[List[str]] = []
    missed: List[str] = []
    shipped = ranking.SUSPICIOUS_SCORE
    try:
        for threshold in _THRESHOLDS:
            ranking.SUSPICIOUS_SCORE = threshold  # a benchmark's own process
            answers = {state.name: judge_state(state.snapshot, owners[state.name]) for state in states}
            rows.append([f"{threshold}{' (shipped)' if threshold == shipped else ''}", *_count(states, answers)])
            if threshold == shipped:
                missed = list(_iter_wrong(states, answers))
    finally:
        ranking.SUSPICIOUS_SCORE = shipped
    headers = ["points", "healthy", "false alarms", "leaking", "hits", "another tag first", "misses"]
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=("left",) + ("right",) * 6)
    return Report(tables=[table], notes=missed or ["the shipped threshold gets every state right"])


def know_owners(state: KnownState) -> Dict[PoolTag, TagOwners]:
    """What the built-in table and the source say, and the drivers that are proven there."""
    lists = TagLists({EvidenceKind.BUILTIN: load_knowntags()})
    found = weigh_owners([], NO_CONTENTS, find_notable(state.snapshot), lists, state.snapshot)
    owners = {item.tag: item for item in found.tags}
    for tag, driver in state.drivers.items():
        if tag in owners:
            proof = Evidence(
                tag, driver, EvidenceKind.CALL, Confidence.PROVEN, "call ExAllocatePoolWithTag", rva=0x1010
            )
            owner = Owner(driver, Confidence.PROVEN, (proof,), part_of_windows=False)
            known = owners[tag]
            owners[tag] = TagOwners(tag, (owner, *known.owners), known.coverage, known.descriptions)
    return owners


def grade(state: KnownState, answer: LeakReport) -> str:
    """``right``, ``false alarm``, ``other`` (another tag is first) or ``miss``."""
    if not state.leaking:
        return "false alarm" if answer.suspects else "right"
    if not answer.suspects:
        return "miss"
    return "right" if answer.suspects[0].tag.text in state.leaking else "other"


def _count(states: List[KnownState], answers: Dict[str, LeakReport]) -> Tuple[str, ...]:
    healthy = [grade(state, answers[state.name]) for state in states if not state.leaking]
    leaking = [grade(state, answers[state.name]) for state in states if state.leaking]
    alarms = healthy.count("false alarm")
    counts = (len(healthy), alarms, len(leaking), *(leaking.count(word) for word in ("right", "other", "miss")))
    return tuple(map(str, counts))


def _iter_wrong(states: List[KnownState], answers: Dict[str, LeakReport]) -> List[str]:
    lines = []
    for state in states:
        answer = answers[state.name]
        word = grade(state, answer)
        if word != "right":
            first = answer.suspects[0] if answer.suspects else None
            named = f"{first.tag} ({first.score} points: {'; '.join(first.reasons)})" if first else "nobody"
            lines.append(f"{word}: {state.name}: names {named}")
    return lines
