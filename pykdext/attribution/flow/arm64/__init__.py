"""ARM64 code, followed: its decoder, registers, memory and instructions."""

from __future__ import annotations
