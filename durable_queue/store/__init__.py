"""The queue in the database: rows, leases, history; and the hints that wake workers."""
