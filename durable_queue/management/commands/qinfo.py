"""`manage.py qinfo`: django-q2's command, which says nothing of tasks that wait for a cluster that does not run."""

from typing import Any

from django_q.conf import Conf
from django_q.management.commands.qinfo import Command as DjangoQCommand

from durable_queue.store import queues


class Command(DjangoQCommand):  # type: ignore[misc]
    """The same, and a line for each queue that tasks wait in and no worker serves."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the figures."""
        super().handle(*args, **options)
        if not (options.get("ids") or options.get("config")):
            for queue, count in sorted(queues.unserved(Conf.ORM or "default").items()):
                self.stdout.write(queues.told(queue, count))
