"""The exactly-once writer of the log file. Knows no Django: docs/exactly-once.md goes through it step by step."""
