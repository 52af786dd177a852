"""Who owns a tag."""

from __future__ import annotations
