"""Windows kernel dumps made from nothing, and the sample drivers that appear in them."""

from __future__ import annotations
