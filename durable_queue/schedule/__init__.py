"""Schedules: when one runs (rule.py and what it imports know neither the database nor Django), and what becomes of its row."""
