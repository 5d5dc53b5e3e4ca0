"""Rows of KV caches kept by the daemon, outside the workers: in memory and on disk, found by the path they follow."""
