"""Notifications: what clients call, and what gets written."""
