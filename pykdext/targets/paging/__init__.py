"""From virtual to physical addresses: page tables of each processor and mode."""

from __future__ import annotations
