"""Where the memory is: what the memory manager counts, and page frames by use."""

from __future__ import annotations
