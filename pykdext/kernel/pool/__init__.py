"""The pools: their tag tables, their big pages, their small blocks."""

from __future__ import annotations
