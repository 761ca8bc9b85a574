#!/usr/bin/env python3
"""A client of Notifier in one file, with nothing but the standard library: copy it, import it, or run it.

    client = Notifier("http://127.0.0.1:8000")
    task_id = client.send("alice@example.com", q="hello")
    print(client.wait(task_id)["status"])

While the service is busy, restarted or out of reach, a request is repeated until `patience` is over, not before the moment that
`Retry-After` names. What queues tasks bears an idempotency key: however often it is repeated, it is queued once.
"""

import argparse
import email.utils
import http.client
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

LONGEST_WAIT = 30  # seconds for which the service lets a request wait for the end of a task
ENDED = ("succeeded", "failed", "cancelled")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries, if the service does not name a time

Task = dict[str, Any]  # what docs/http.md shows


class Refused(Exception):
    """The service says no, and would say so again."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(f"{status}: {detail if isinstance(detail, str) else json.dumps(detail)}")
        self.status = status
        self.detail = detail


class Notifier:
    """One service. Not for several threads at a time."""

    def __init__(self, url: str, *, token: str | None = None, patience: float = 60.0) -> None:
        """`url`: where the service is. `patience`: seconds for which a request is repeated while the service can't answer."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL such as http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=LONGEST_WAIT + 15)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = patience

    def send(self, email: str, *, q: str | None = None, basic: bool = False, key: str | None = None) -> str:
        """Have a notification written; return the task's id. `key`: the same one, the same notification, for 24 hours."""
        path = f"{'/basic' if basic else ''}/send-notification/{quote(email, safe='')}"
        _, headers, _ = self._ask("POST", path, query={"q": q}, key=key or str(uuid.uuid4()))
        return str(headers["Task-Id"])

    def queue(self, program: str, email: str, *, key: str | None = None, **more: Any) -> Task:
        """Queue a task for `program`, `query` or `basic`; `more` are `q` and `delay` (seconds) or `at` (RFC 3339)."""
        body = {"program": program, "email": email, **more}
        return self._task("POST", "/tasks", body=body, key=key or str(uuid.uuid4()))

    def queue_many(self, tasks: list[dict[str, Any]], *, key: str | None = None) -> list[Task]:
        """Queue up to 1,000 tasks, all or none; each has the keys that `queue` takes."""
        _, _, said = self._ask("POST", "/tasks/bulk", body={"tasks": tasks}, key=key or str(uuid.uuid4()))
        found: list[Task] = said["tasks"]
        return found

    def task(self, task_id: str, *, wait: float = 0) -> Task:
        """The task as it is; with `wait` as it is at its end, or after so many seconds, at most 30."""
        return self._task("GET", _path(task_id), query={"wait": wait or None})

    def wait(self, task_id: str, *, seconds: float = 3600) -> Task:
        """The task once it has ended. Raises TimeoutError if it has not within so many seconds."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            begun = time.monotonic()
            task = self.task(task_id, wait=round(min(max(left, 0), LONGEST_WAIT), 3))
            if task["status"] in ENDED:
                return task
            if left <= 0:
                raise TimeoutError(f"{task_id} is still {task['status']} after {seconds:g} s")
            if time.monotonic() - begun < 1:  # it answers at once when too many wait, or when it is about to stop
                time.sleep(min(1, left))

    def tasks(self, *, status: str | None = None, queue: str | None = None) -> Iterator[Task]:
        """All tasks, the newest first."""
        cursor = None
        while True:
            query = {"status": status, "queue": queue, "cursor": cursor, "limit": 100}
            _, _, page = self._ask("GET", "/tasks", query=query)
            yield from page["tasks"]
            cursor = page["next"]
            if cursor is None:
                return

    def cancel(self, task_id: str) -> Task:
        """Cancel a task. A running one may still end otherwise: `wait` tells."""
        return self._task("POST", f"{_path(task_id)}/cancel")

    def retry(self, task_id: str) -> Task:
        """Queue a failed or cancelled task again."""
        return self._task("POST", f"{_path(task_id)}/retry")

    def run_now(self, task_id: str) -> Task:
        """Have a task run now that waits for its time."""
        return self._task("POST", f"{_path(task_id)}/run-now")

    def delete(self, task_id: str) -> None:
        """Delete a task that has ended."""
        self._ask("DELETE", _path(task_id))

    def _task(self, method: str, path: str, **more: Any) -> Task:
        task: Task = self._ask(method, path, **more)[2]
        return task

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        key: str | None = None,
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and body of the answer. Raises Refused, or what kept the last try from being answered."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{self._prefix}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = dict(self._headers)
        if key:
            headers["Idempotency-Key"] = key
        if body is not None:
            headers["Content-Type"] = "application/json"
        until, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            reason: Exception
            after = 0.0
            try:
                self._connection.request(method, target, None if body is None else json.dumps(body), headers)
                response = self._connection.getresponse()
                status, said = response.status, response.read()
            except (OSError, http.client.HTTPException) as error:  # perhaps it was done: the key keeps it from being done twice
                self._connection.close()
                reason = error
            else:
                if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
                    return status, response.headers, json.loads(said) if said else None
                reason = Refused(status, _detail(said))
                if status not in (429, 502, 503, 504):
                    raise reason
                after = _seconds(response.headers.get("Retry-After"))
            after = max(after, pause * random.uniform(0.5, 1))  # noqa: S311 - so that clients don't come back all at once
            if time.monotonic() + after > until:
                raise reason
            time.sleep(after)
            pause = min(2 * pause, LONGEST_PAUSE)


def _path(task_id: str) -> str:
    return f"/tasks/{quote(task_id, safe='')}"


def _detail(said: bytes) -> Any:
    try:
        return json.loads(said)["detail"]
    except (ValueError, KeyError, TypeError):  # not the service has answered, but something in front of it
        return said[:200].decode(errors="replace")


def _seconds(retry_after: str | None) -> float:
    """What `Retry-After` asks for, in seconds from now on (RFC 9110, section 10.2.3)."""
    if retry_after and retry_after.strip().isdecimal():
        return float(retry_after)
    moment = email.utils.parsedate_tz(retry_after) if retry_after else None
    return max(0.0, email.utils.mktime_tz(moment) - time.time()) if moment else 0.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ask a Notifier for something. The answer is printed as JSON, a task a line.",
        epilog="The exit code is 0 if it is done, and the task that was waited for has succeeded; 1 if not; 2 for wrong usage.",
    )
    url = os.environ.get("NOTIFIER_URL", "http://127.0.0.1:8000")
    parser.add_argument("--url", default=url, help="where the service is (NOTIFIER_URL, else http://127.0.0.1:8000)")
    parser.add_argument(
        "--token", default=os.environ.get("NOTIFIER_TOKEN"), help="better in NOTIFIER_TOKEN: others see arguments"
    )
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="repeat a request for so many seconds (60)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    send = verbs.add_parser("send", help="have a notification written, and print the task's id")
    queue = verbs.add_parser("queue", help="queue a task, for now or for later")
    for verb in (send, queue):
        verb.add_argument("email")
        verb.add_argument("-q", help="a text that is written first")
        verb.add_argument("--basic", action="store_true", help="replace the log instead of appending to it")
        verb.add_argument("--key", help="an idempotency key: with the same one, the same request queues nothing again")
    when = queue.add_mutually_exclusive_group()
    when.add_argument("--delay", type=float, metavar="S", help="seconds from now on")
    when.add_argument("--at", metavar="MOMENT", help="such as 2030-01-31T12:00:00Z")
    bulk = verbs.add_parser("bulk", help="queue the tasks in a file of JSON, one a line, all or none")
    bulk.add_argument("file", type=argparse.FileType(), help="- is the standard input")
    bulk.add_argument("--key")

    for name, does in (
        ("show", "show a task"),
        ("cancel", "cancel a task"),
        ("retry", "queue a failed or cancelled task again"),
        ("run-now", "have a task run now that waits for its time"),
        ("delete", "delete a task that has ended"),
    ):
        verbs.add_parser(name, help=does).add_argument("id")
    wait = verbs.add_parser("wait", help="wait for the end of a task")
    wait.add_argument("id")
    wait.add_argument("--seconds", type=float, default=3600, help="no longer than this (3600)")
    several = verbs.add_parser("list", help="list tasks, the newest first")
    several.add_argument("--status", choices=["scheduled", "queued", "running", "retrying", *ENDED])
    several.add_argument("--queue")
    several.add_argument("--most", type=int, default=50, help="how many (50)")
    return parser.parse_args()


def _run(client: Notifier, asked: argparse.Namespace) -> Iterator[Any]:
    """Do what was asked for; yield what is to be printed."""
    match asked.verb:
        case "send":
            yield client.send(asked.email, q=asked.q, basic=asked.basic, key=asked.key)
        case "queue":
            more = {name: getattr(asked, name) for name in ("q", "delay", "at") if getattr(asked, name) is not None}
            yield client.queue("basic" if asked.basic else "query", asked.email, key=asked.key, **more)
        case "bulk":
            yield from client.queue_many([json.loads(line) for line in asked.file if line.strip()], key=asked.key)
        case "wait":
            yield client.wait(asked.id, seconds=asked.seconds)
        case "list":
            for _, task in zip(range(asked.most), client.tasks(status=asked.status, queue=asked.queue), strict=False):
                yield task
        case "show":
            yield client.task(asked.id)
        case "delete":
            client.delete(asked.id)
        case _:
            verb = {"cancel": client.cancel, "retry": client.retry, "run-now": client.run_now}[asked.verb]
            yield verb(asked.id)


def main() -> int:
    """Run the command line; return the exit code."""
    asked = _arguments()
    has_ended_well = True
    try:
        for found in _run(Notifier(asked.url, token=asked.token, patience=asked.patience), asked):
            sys.stdout.write((found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)) + "\n")
            has_ended_well = asked.verb != "wait" or found["status"] == "succeeded"
    except BrokenPipeError:  # whoever reads has read enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except (Refused, OSError, http.client.HTTPException, ValueError) as error:
        sys.stderr.write(f"{error or type(error).__name__}\n")
        return 1
    return 0 if has_ended_well else 1


if __name__ == "__main__":
    sys.exit(main())
