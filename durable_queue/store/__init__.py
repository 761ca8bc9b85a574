"""The queue in the database: rows, leases, history, and how a worker is woken."""
