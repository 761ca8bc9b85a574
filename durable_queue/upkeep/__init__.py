"""Duties that are done again and again while workers run tasks: heartbeats, schedules, pruning."""
