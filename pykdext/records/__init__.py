"""Text and file forms of snapshots."""

from __future__ import annotations
