"""The part that only SQLite needs."""
