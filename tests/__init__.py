"""The tests. `scripts/test` runs them on SQLite and on PostgreSQL."""
