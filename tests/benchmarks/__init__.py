"""Measurements against other tools: ``python -m tests.benchmarks``."""

from __future__ import annotations
