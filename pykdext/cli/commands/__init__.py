"""One module for each command: its words, its action and the forms of its answer."""

from __future__ import annotations
