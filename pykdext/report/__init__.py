"""How values are shown."""

from __future__ import annotations
