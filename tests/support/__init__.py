"""Helpers that tests share: installations, processes, scenes, and tasks for real workers."""
