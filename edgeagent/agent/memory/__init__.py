"""Long-term memory in one SQLite file."""
