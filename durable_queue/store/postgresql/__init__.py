"""The part that only PostgreSQL needs."""
