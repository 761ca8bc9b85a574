"""Helpers of the admin's tests: they make queued, taken, finished and failed tasks, and open pages."""

import uuid
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ
from django_q.tasks import async_task

from durable_queue import BackgroundTasks
from durable_queue.models import FailedAttempt, Worker
from durable_queue.store.broker import Broker
from durable_queue.store.freeing import free
from durable_queue.store.leases import Row, Settlement
from durable_queue.work.outcomes import read, settle_refused
from notifications.tasks import write_log
from tests.support.queue_rows import worker as stored_worker

LISTS = ["django_q_ormq", "django_q_success", "django_q_failure", "django_q_schedule", "durable_queue_worker"]
SCRIPT = "<script>alert('mallory')</script>"
TRACEBACK = 'disk full : Traceback (most recent call last):\n  File "logfile.py", line 7\nOSError: disk full\n'


def post(email: str, **options: Any) -> str:
    """Enqueue a write, as a request does; return the task's id."""
    if options:
        task_id: str = async_task("notifications.tasks.write_log", f"message to {email}\n", **options)
        return task_id
    tasks = BackgroundTasks(name=f"message to {email}")
    tasks.add_task(write_log, f"message to {email}\n")
    return tasks.enqueue() or ""


def take(limit: int) -> Worker:
    """Have a worker on another host claim the due rows; return the worker's row."""
    worker = stored_worker(uuid.uuid4().hex, host="elsewhere 1234 5678", pid=4242)
    Broker().settle_and_claim(worker, claim=limit)
    return worker


def settle(*, error: str = "", result: object = None) -> None:
    """Claim the due rows and settle them as a worker does: with a result, or with an error of the last attempt."""
    broker, worker, settlements, now = Broker(), take(1000), [], timezone.now()
    for row in held_by(worker):
        task = read(row) | {"started": now, "stopped": timezone.now(), "success": not error, "result": error or result}
        attempt = FailedAttempt(row=row.id, task_id=task["id"], number=1, outcome="failed", worker=str(worker), error=error)
        attempt.started, attempt.stopped = now, timezone.now()
        settlements.append(Settlement(row=row, task=task, attempt=attempt if error else None))
    broker.settle_and_claim(worker, settlements)
    free(broker, worker)


def refuse(reason: str) -> None:
    """Claim the due rows, and settle them as refused."""
    broker, worker = Broker(), take(1000)
    broker.settle_and_claim(worker, [settle_refused(row, reason, str(worker)) for row in held_by(worker)])
    free(broker, worker)


def held_by(worker: Worker) -> list[Row]:
    """The rows that a worker has claimed."""
    rows = OrmQ.objects.filter(lock=worker.lease).order_by("pk")
    return [Row(id=row.pk, due=timezone.now(), payload=row.payload) for row in rows]


def page(client: Client, name: str, *args: Any, **query: str) -> str:
    """The HTML of an admin page."""
    response = client.get(reverse(f"admin:{name}", args=args), query)
    assert response.status_code == 200
    return response.content.decode()


def act(client: Client, name: str, action: str, keys: list[Any], **more: str) -> str:
    """Run an action on rows of a list; return the page that follows."""
    data = {"action": action, "_selected_action": keys, **more}
    return client.post(reverse(f"admin:{name}_changelist"), data, follow=True).content.decode()


def staff(*permissions: str) -> Client:
    """A client logged in as a member of the staff with these permissions."""
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client
