"""What a worker calls: each takes plain values and makes one write to the log, once however often it is called again."""

import os
from functools import lru_cache
from logging import getLogger
from pathlib import Path

from django.conf import settings

from durable_queue.task.identifiers import new_task_id
from durable_queue.task.running import RunningTask, current_attempt, starter_of_caller, task_of_caller
from notifications.log.identity import Identity, mark_of_key, mark_of_repetition, mark_of_text
from notifications.log.log_file import LogFile
from notifications.log.protocols import Outcome
from notifications.task_database import TaskDatabase

logger = getLogger(__name__)

APPEND, REPLACE = "append", "replace"
SHOWN = 200  # characters of a text in the service's output

NOT_ITS_OWN = (
    "It wrote to the log from a bare thread, a pool, a child process, or after its end: such a write stands at least once, "
    "and once only if it is given a key."
)
MAYBE_FOR_ANOTHER = (
    "A thread, a pool or a child process that it has left behind wrote to the log, perhaps for another task: such a write "
    "stands at least once."
)


def write_notification(email: str, message: str = "", *, key: str | None = None) -> str | None:
    """Replace the log with one notification, without a newline at its end. Returns what else became of it, if so.

    `key`: as for `write_log`. A replacement by a newer task is never undone.
    """
    return _write(REPLACE, f"notification for {email}: {message}", key)


def write_log(message: str, *, key: str | None = None) -> str | None:
    """Append `message` to the log, as it is. Returns what else became of it, if so.

    With a `key`, the task writes it exactly once, whatever the message, the order and the branch of a later attempt.
    Without one, a message stands in the log as often as the attempt that wrote it most often.

    Raises TypeError or ValueError for a key that is no text or empty, OSError when the log can't be written to.
    """
    return _write(APPEND, message, key)


def open_log() -> None:
    """In a new worker: make the log ours, and read what stands in it; say so if the database has forgotten tasks of ours."""
    log = _log_file(settings.NOTIFIER_LOG_FILE)
    log.open()
    if restored := log.forgotten_trim():
        logger.warning(
            "The database was restored from a copy that was made before the journal's trim %d. Tasks that had ended since then "
            "and that the copy brings back may write again what they had written.",
            restored,
        )


def _write(kind: str, text: str, key: str | None) -> str | None:
    if key is not None and not isinstance(key, str):
        raise TypeError(f"The key {key!r} is no text: write key=str(…).")
    if key == "":
        raise ValueError("The key is empty: name what is written, such as an order's number.")
    attempt = current_attempt()
    task = attempt or task_of_caller()
    content = text.encode()
    identity = identify(task, kind, content, key)
    log = _log_file(settings.NOTIFIER_LOG_FILE)
    put = log.append if kind == APPEND else log.replace
    outcome = put(content, identity=identity, attempt=attempt or (task if task and task.is_in_hand else None))
    if outcome is Outcome.WRITTEN:
        return None
    shown = repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
    logger.info("Task %s: not written, %s: %s%s", identity.task.hex(), outcome.value, shown, f" (key {key!r})" if key else "")
    return str(outcome.value)


def identify(task: RunningTask | None, kind: str, text: bytes, key: str | None) -> Identity:
    """Which write of the task this is, called by `task_of_caller`. Outside of a task it is one that never comes again."""
    if task is None:
        if starter := starter_of_caller():
            starter.note(MAYBE_FOR_ANOTHER)
        return Identity(bytes.fromhex(new_task_id()))
    name = bytes.fromhex(task.id)
    if task is not current_attempt():
        if key is not None:
            return Identity(name, mark_of_key(key))
        task.note(NOT_ITS_OWN)
        return Identity(name)
    call = task.call
    mark = mark_of_text(kind, call, text) if key is None else mark_of_key(key)
    if key is None and (before := task.count(mark)):
        mark = mark_of_repetition(mark, before)
    task.writes += 1
    return Identity(name, mark, (call, task.writes - 1))


@lru_cache(maxsize=8)
def _log_file(path: Path) -> LogFile:
    """This process's writer."""
    durable = settings.NOTIFIER_DURABILITY == "power"
    journal = settings.DATA_DIR / "journal" / "log"
    return LogFile(Path(os.path.abspath(path)), journal_path=journal, durable=durable, database=TaskDatabase())
