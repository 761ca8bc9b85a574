"""What a worker calls: each takes plain values and makes one write to the log, once however often it is called again."""

import os
import struct
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import get_ident

from django.conf import settings

from notifications.cluster.identifiers import new_task_id
from notifications.cluster.running import RunningTask, current_task
from notifications.finished import finished
from notifications.logfile import LogFile, Outcome

KEY = struct.Struct(">16sII")  # task, step, count: keys sort in the order of queueing


def write_notification(email: str, message: str = "") -> str | None:
    """Replace the log with one notification, without a newline at its end. Returns what else became of it, if so."""
    log = _log_file(settings.NOTIFIER_LOG_FILE, get_ident())
    return _remark(log.replace(f"notification for {email}: {message}".encode(), key=_next_key()))


def write_log(message: str) -> str | None:
    """Append `message` to the log, as it is. Returns what else became of it, if so."""
    log = _log_file(settings.NOTIFIER_LOG_FILE, get_ident())
    return _remark(log.append(message.encode(), key=_next_key()))


def _remark(outcome: Outcome) -> str | None:
    return None if outcome is Outcome.WRITTEN else outcome.value


def _next_key() -> bytes:
    """The key of this place in the running task; outside a task one that never comes again."""
    task = current_task.get() or RunningTask(new_task_id())
    return KEY.pack(bytes.fromhex(task.id), *task.next_key())


@lru_cache(maxsize=8)
def _log_file(path: Path, thread: int) -> LogFile:
    """This thread's writer. The journal is the path's, wherever a symbolic link at its end may lead today."""
    absolute = os.path.abspath(path)
    name = f"{sha256(os.fsencode(absolute)).hexdigest()[:16]}-{os.path.basename(absolute)[:60]}"
    durable = settings.NOTIFIER_DURABILITY == "power"
    return LogFile(path, journal_path=settings.DATA_DIR / "journal" / name, durable=durable, finished=finished)
