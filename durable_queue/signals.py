"""The signals that a worker process sends to other apps."""

from django.dispatch import Signal

# Each new worker process sends it before it takes its first task. An error in a receiver is logged; the worker goes on.
worker_started = Signal()
