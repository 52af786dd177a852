"""Which call takes the tag: allocators, what a call goes to, and functions followed to their callers."""

from __future__ import annotations
