"""Crash dump files: their headers, what pages they hold and where."""

from __future__ import annotations
