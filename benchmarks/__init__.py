"""Notifier beside what people would pick instead: the same job, the same machine, one run. `scripts/bench` runs it."""
