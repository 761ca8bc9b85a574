"""The processes that start the service, keep it alive and answer requests."""
