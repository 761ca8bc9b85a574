"""What a worker process tells other apps."""

from django.dispatch import Signal

# Sent by each new worker process before it takes its first task. A receiver that raises is logged, and keeps nobody from work.
worker_started = Signal()
