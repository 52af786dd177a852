"""Many dumps: read in parallel, kept in a store, compared over hosts and weeks."""

from __future__ import annotations
