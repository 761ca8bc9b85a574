"""What starts the service, and keeps it alive."""
