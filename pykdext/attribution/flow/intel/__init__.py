"""x86 and x64 code, followed: its decoder, operands, calls and instructions."""

from __future__ import annotations
