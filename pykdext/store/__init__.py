"""SQLite files that keep what batches found: their tables, and the snapshots in them as sources."""
