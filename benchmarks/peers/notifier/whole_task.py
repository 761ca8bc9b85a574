"""A task that uses what a thread may come to hold: a connection of the ORM, and the log's writer."""

import time

import slow
from django.contrib.auth.models import User
from line import LINE

from notifications.tasks import write_log


def whole(number: int, seconds: float) -> None:
    """Ask the database, write a line, wait."""
    began = time.time()
    User.objects.count()
    write_log(LINE.format(number))
    time.sleep(seconds)
    slow.leave("whole", number, began)
