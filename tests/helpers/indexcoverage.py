"""How much of indexed images was there, counted as the answers count it."""

from __future__ import annotations

from pykdext.model import ImageCoverage


def coverage_of(index):
    scanned = [module for module in index.modules if module.reason is None]
    present_bytes = sum(module.present_bytes for module in scanned)
    expected_bytes = sum(module.expected_bytes for module in scanned)
    return ImageCoverage.of(len(scanned), len(index.modules), present_bytes, expected_bytes)
