"""The kernel in the debugger's session, read through pykd."""

from __future__ import annotations
