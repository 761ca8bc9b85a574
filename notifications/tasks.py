"""The functions that workers call. Each takes plain values and makes one write to the log, once across all attempts."""

import os
from functools import lru_cache
from logging import getLogger
from pathlib import Path

from django.conf import settings

from durable_queue.task.callers import current_attempt, starter_of_caller, task_of_caller
from durable_queue.task.identifiers import new_task_id
from durable_queue.task.running import RunningTask
from durable_queue.task.uninterrupted import uninterrupted
from notifications.log.identity import Identity, mark_of_key, mark_of_repetition, mark_of_text
from notifications.log.log_file import LogFile
from notifications.log.protocols import Outcome
from notifications.task_database import TaskDatabase

logger = getLogger(__name__)

APPEND, REPLACE = "append", "replace"
SHOWN = 200  # characters of a text that the service's output shows

NOT_ITS_OWN = (
    "It wrote to the log from a bare thread, a pool or a child process, or after its end. A retry may repeat such a write "
    "unless it has a key."
)
MAYBE_FOR_ANOTHER = (
    "A thread, a pool or a child process that it left running wrote to the log, perhaps for another task. A retry may "
    "repeat such a write."
)


def write_notification(email: str, message: str = "", *, key: str | None = None) -> str | None:
    """Replace the log's text with one notification and no newline. Return why it was not written, or None.

    `key`: as for `write_log`. An older task never undoes the replacement of a newer one.
    """
    return _write(REPLACE, f"notification for {email}: {message}", key)


def write_log(message: str, *, key: str | None = None) -> str | None:
    """Append `message` to the log unchanged. Return why it was not written, or None.

    With a `key`, the task writes exactly once under it, whatever the message, order and branch of a later attempt.
    Without a key, a message stands in the log as often as the attempt wrote it that wrote it most often.

    Raises TypeError or ValueError for a key that is not a string or empty, OSError when the log can't be written to.
    """
    return _write(APPEND, message, key)


def open_log() -> None:
    """In a new worker: hold the log and read the journal. Warn if the database was restored from before a trim."""
    log = _log_file(settings.NOTIFIER_LOG_FILE)
    log.open()
    if restored := log.forgotten_trim():
        logger.warning(
            "The database was restored from a copy that was made before the journal's trim %d. Tasks that had ended since then "
            "and that the copy brings back may repeat their writes.",
            restored,
        )


def _write(kind: str, text: str, key: str | None) -> str | None:
    if key is not None and not isinstance(key, str):
        raise TypeError(f"The key {key!r} is not a string: write key=str(…).")
    if key == "":
        raise ValueError("The key is empty: name the thing that is written, for example by an order number.")
    content = text.encode()
    with uninterrupted():  # a write that has begun ends, whatever the limit of its task
        attempt = current_attempt()
        task = attempt or task_of_caller()
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
    """Which write of the task this is; `task` comes from `task_of_caller`. Outside of a task, each write is a new one."""
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
    """The one writer of this process for a log."""
    durable = settings.NOTIFIER_DURABILITY == "power"
    journal = settings.DATA_DIR / "journal" / "log"
    return LogFile(Path(os.path.abspath(path)), journal_path=journal, durable=durable, database=TaskDatabase())
