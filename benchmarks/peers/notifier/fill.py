"""Fill Notifier's tables by SQL, thousands of rows at a time: runs in its environment.

fill.py queued FIRST COUNT    tasks that are due, each writing a line of its own
fill.py waiting FIRST COUNT   tasks whose first attempt has failed, and whose next one is due tomorrow
fill.py history FIRST COUNT   tasks that have succeeded within the last ten days
"""

import sys
from datetime import timedelta

import django

django.setup()

from django.db import connection, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_q.conf import Conf  # noqa: E402
from django_q.models import OrmQ  # noqa: E402
from line import LINE  # noqa: E402

from durable_queue.intake import packaging  # noqa: E402
from durable_queue.models import FailedAttempt  # noqa: E402
from durable_queue.states import for_now  # noqa: E402
from durable_queue.store.databases import table_of  # noqa: E402
from durable_queue.store.rows import HistoryRow  # noqa: E402
from durable_queue.task import signing  # noqa: E402

CHUNK = 10_000  # rows in one transaction
AGE = timedelta(days=10)
NOW = timezone.now()


def queued(numbers: range, due: timedelta = timedelta(0)) -> list[OrmQ]:
    """Queue rows, one for each number."""
    rows = []
    for number in numbers:
        line = LINE.format(number)
        task = packaging.new_task("notifications.tasks.write_log", (line,), {}, name=line.strip())
        lock = NOW + due if due else for_now(timezone.now())
        rows.append(OrmQ(key=Conf.CLUSTER_NAME, payload=signing.dumps(task), lock=lock))
    return OrmQ.objects.bulk_create(rows)


def waiting(numbers: range) -> None:
    """The same, with an attempt on record, due tomorrow."""
    FailedAttempt.objects.bulk_create(
        FailedAttempt(
            row=row.pk, number=1, outcome=FailedAttempt.Outcome.FAILED, worker="1", started=NOW, stopped=NOW, error="no"
        )
        for row in queued(numbers, timedelta(days=1))
    )


def history(numbers: range, last: int) -> None:
    """History rows, the last number's of now, the others' before it in order."""
    rows = []
    for number in numbers:
        moment = NOW - AGE * ((last - number) / last)
        task_id = f"{int(moment.timestamp() * 1000):012x}7{number % 4096:03x}8{number:015x}"
        line = LINE.format(number)
        rows.append(
            HistoryRow(
                id=task_id,
                name=line.strip(),
                func="notifications.tasks.write_log",
                hook=None,
                args=(line,),
                kwargs={},
                result=None,
                group=None,
                cluster=Conf.CLUSTER_NAME,
                started=moment,
                stopped=moment,
                success=True,
                attempt_count=1,
            )
        )
    table_of(connection).save_history(rows)


def main(what: str, first: int, count: int) -> None:
    """Fill, a chunk at a time."""
    for start in range(first, first + count, CHUNK):
        numbers = range(start, min(start + CHUNK, first + count))
        with transaction.atomic():
            if what == "history":
                history(numbers, first + count)
            else:
                {"queued": queued, "waiting": waiting}[what](numbers)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
