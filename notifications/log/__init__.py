"""The exactly-once writer of the log file. It imports no Django. docs/exactly-once.md explains it step by step."""
