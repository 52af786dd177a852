"""PE images, in memory or on disk: headers, sections, exports, imports, version and functions."""

from __future__ import annotations
