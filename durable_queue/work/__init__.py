"""What a worker process does: it claims, runs and settles."""
