"""Say which tasks wait in a queue that no worker serves: their cluster's name may be a slip."""

from django_q.conf import logger

from durable_queue.store import queues

LOOK = 30.0  # seconds between two looks
TWICE = 2  # looks after which it is said: clusters that start one after the other need a moment


class Unserved:
    """Looks for such queues, and names each once for as long as it stays one."""

    def __init__(self, using: str) -> None:
        """`using`: the database's alias."""
        self._using = using
        self._seen: dict[str, int] = {}  # at how many looks in a row

    def look(self) -> float:
        """Name those that were there at the last look too; return the seconds until the next. Raises django.db.Error."""
        waiting = queues.unserved(self._using)
        self._seen = {queue: self._seen.get(queue, 0) + 1 for queue in waiting}
        for queue, looks in self._seen.items():
            if looks == TWICE:
                logger.warning(
                    "%s: start `manage.py qcluster --name %s`, or delete them", queues.told(queue, waiting[queue]), queue
                )
        return LOOK
