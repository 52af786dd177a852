"""Dumps without readable tag tables: the system, the crash, the drivers, and why there is no verdict."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import List, Tuple

from pykdext.model import DumpSummary, Module
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.markup import PLAIN, Line, Markup, render_lines
from pykdext.report.sentences.states import narrow_machine_lines
from pykdext.units import format_address

SUMMARY_SCHEMA = "poolleak.summary/1"


def render_summary_text(summary: DumpSummary, width: int, markup: Markup = PLAIN) -> str:
    """Facts first, then the reason, then the images as ``lm`` lists them."""
    loaded = [module for module in summary.modules if not module.unloaded]
    unloaded = [module for module in summary.modules if module.unloaded]
    lines: List[Line] = [f"{summary.path or 'session'}: {summary.facts.kind}", *narrow_machine_lines(summary.facts), ""]
    lines += wrap(f"No verdict: {summary.reason}", width)
    for title, modules in (("Loaded images", loaded), ("Unloaded images", unloaded)):
        if modules:
            lines += ["", f"{title}: {len(modules)}", *_module_table(modules, width)]
    return render_lines([*lines, *warning_lines(summary.facts.warnings, width)], markup, width)


def _module_table(modules: List[Module], width: int) -> List[str]:
    rows = [_module_row(module) for module in sorted(modules, key=lambda module: module.base)]
    return format_table(("Start", "End", "Name"), rows, ("left", "left", "left"), width)


def _module_row(module: Module) -> Tuple[str, str, str]:
    return format_address(module.base), format_address(module.base + module.size), module.name


def render_summary_json(summary: DumpSummary) -> str:
    """``poolleak.summary/1``."""
    facts = summary.facts
    document = {
        "schema": SUMMARY_SCHEMA,
        "source": {"kind": facts.kind, "path": summary.path},
        "taken_at": facts.taken_at.isoformat() if facts.taken_at else None,
        "os": {"build": facts.build, "arch": facts.machine.value, "processors": facts.processors},
        "uptime_seconds": facts.uptime_seconds,
        "boot_id": facts.boot_id,
        "bugcheck": asdict(facts.bugcheck) if facts.bugcheck else None,
        "memory_image": asdict(facts.image) if facts.image else None,
        "verdict": f"No verdict: {summary.reason}",
        "reason": summary.reason,
        "modules": [asdict(module) for module in summary.modules],
        "warnings": list(facts.warnings),
    }
    return json.dumps(document, indent=2) + "\n"
