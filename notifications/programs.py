"""The two programs of FastAPI's tutorial: which writes a request asks for."""

from durable_queue import BackgroundTasks
from notifications.tasks import write_log, write_notification


def basic(email: str) -> BackgroundTasks:
    """Replace the log's text with one notification for `email`."""
    tasks = BackgroundTasks(name=f"notification for {email}")
    tasks.add_task(write_notification, email, message="some notification")
    return tasks


def query(email: str, q: str | None) -> BackgroundTasks:
    """Append the query `q` to the log, if there is one, and a message to `email`."""
    tasks = BackgroundTasks(name=f"message to {email}")
    log_query(tasks, q)
    tasks.add_task(write_log, f"message to {email}\n")
    return tasks


def log_query(tasks: BackgroundTasks, q: str | None) -> None:
    """Add the write for a query: the part that is a dependency in FastAPI's tutorial."""
    if q:
        tasks.add_task(write_log, f"found query: {q}\n")
