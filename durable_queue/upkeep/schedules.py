"""Schedules: enqueue their tasks when they are due."""

from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.scheduler import scheduler

from durable_queue.store.broker import Broker


def queue_due(broker: Broker) -> float:
    """Enqueue the tasks of all due schedules; return the seconds until the next look. Raises django.db.Error."""
    if not Conf.SCHEDULER:
        return 3600.0
    due = Schedule.objects.using(broker.using).exclude(repeats=0).filter(next_run__lt=timezone.now())
    if due.exists():
        scheduler(broker=broker)
    return 1.0
