"""Where the tag's four bytes stand in code and data, by processor, and the index of all immediates."""

from __future__ import annotations
