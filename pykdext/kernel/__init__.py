"""What bytes mean."""

from __future__ import annotations
