"""What addresses are called."""

from __future__ import annotations
