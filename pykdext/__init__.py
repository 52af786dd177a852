"""pykdext: the driver behind a Windows kernel pool memory leak, from crash dumps, logs or WinDbg."""

from __future__ import annotations

__version__ = "0.1.0"
