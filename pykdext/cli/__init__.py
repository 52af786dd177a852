"""The command line: words in, an answer in the form that was asked for out. No analysis."""

from __future__ import annotations
