"""Notifications: the endpoints that clients call, and the tasks that write to the log."""
