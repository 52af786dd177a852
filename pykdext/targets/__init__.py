"""Where bytes come from."""

from __future__ import annotations
