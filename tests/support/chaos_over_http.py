"""Fault injection on the whole service, as its clients see it: scenarios of `scripts/chaos`."""

import http.client
import itertools
import os
import random
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.support import environment
from tests.support.installations import execute, new_installation, queue_table
from tests.support.processes import free_port, manage, processes_of, service, wait_until

CLIENTS = 8


@dataclass
class Posts:
    """The POSTs that the clients sent, and the answers that they got."""

    answered: list[tuple[str, str]] = field(default_factory=list)  # (email, q) of those that were answered with 200
    unknown: list[tuple[str, str]] = field(default_factory=list)  # of those that were sent, and not answered so
    refused: int = 0  # answers with 503
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])  # in all addresses: nobody else's lines look like these

    def send(self, port: int, email: str, q: str) -> None:
        """Post once. As long as no process listens, nothing is sent: try again."""
        email = f"{self.token}.{email}"
        path = f"/send-notification/{quote(email)}" + (f"?q={quote(q)}" if q else "")
        while True:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                client.connect()
            except OSError:
                time.sleep(0.02)
                continue
            try:
                client.request("POST", path)
                status = client.getresponse().status
            except (OSError, http.client.HTTPException):
                status = 0
            finally:
                client.close()
            self.refused += status == 503
            (self.answered if status == 200 else self.unknown).append((email, q))
            return

    def assert_kept(self, env: Mapping[str, str], log: Path) -> None:
        """Each POST with a 200 has its task, and stands in the log once, whole and in order; others stand at most once."""
        with queue_table(env) as table:
            accepted = table.accepted()
        assert accepted >= len(self.answered), f"{len(self.answered)} were answered with 200, {accepted} were ever queued here"
        lines = log.read_text().splitlines(keepends=True)
        allowed = {f"message to {email}\n" for email, _ in self.answered + self.unknown}
        allowed |= {f"found query: {q}\n" for _, q in self.answered + self.unknown if q}
        assert not set(lines) - allowed, f"torn: {list(set(lines) - allowed)[:3]}"
        found = Counter(lines)
        least, most = Counter[str](), Counter[str]()
        for posts, counts in ((self.answered, (least, most)), (self.unknown, (most,))):
            for (email, q), count in itertools.product(posts, counts):
                count[f"message to {email}\n"] += 1
                count[f"found query: {q}\n"] += bool(q)
        lost = {line: (found[line], count) for line, count in least.items() if found[line] < count}
        doubled = {line: (found[line], most[line]) for line in found if found[line] > most[line]}
        assert not lost, (
            f"lost: {len(lost)} of {len(least)}, the first {list(lost.items())[:1]}, the last {list(lost.items())[-1:]}"
        )
        assert not doubled, f"doubled: {list(doubled.items())[:3]}"
        place = {line: number for number, line in enumerate(lines)}
        for email, q in self.answered:
            if q and most[f"message to {email}\n"] == 1:
                assert place[f"found query: {q}\n"] < place[f"message to {email}\n"], f"out of order: {email}"


@contextmanager
def installation(name: str) -> Iterator[tuple[dict[str, str], Path]]:
    """A new installation: its environment, and its log."""
    folder = environment.FOLDER / name
    folder.mkdir()
    with new_installation(folder) as env:
        yield env, Path(env["NOTIFIER_LOG_FILE"])


def is_drained(env: Mapping[str, str]) -> bool:
    """Whether the queue is empty."""
    with queue_table(env) as table:
        return table.waiting() == 0


def posts(quick: bool) -> str:
    """Many clients post, while any process except the service's parent is killed every 0.3 s."""
    count = 400 if quick else 10_000
    heard, port, output = Posts(), free_port(), environment.FOLDER / "posts.out"
    numbers = iter(range(count))

    def client() -> None:
        for number in numbers:
            # A half has a query, a half goes to one of a few addresses.
            email = f"{number}@example.com" if number % 4 < 2 else f"{number % 5}@example.org"
            heard.send(port, email, f"{number}" if number % 2 else "")

    with installation("posts") as (env, log), service(env=env, port=port, output=output) as manager:
        clients = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
        for thread in clients:
            thread.start()
        kills = 0
        while any(thread.is_alive() for thread in clients):
            time.sleep(0.3)
            victims = [process for process in processes_of(env) if process.pid != manager.pid]
            if victims:
                with suppress(psutil.NoSuchProcess):
                    random.choice(victims).kill()
                    kills += 1
        wait_until(lambda: is_drained(env), timeout=60, what="all is written")
        heard.assert_kept(env, log)
    return (
        f"{count} posts by {CLIENTS} clients, {kills} kills: {len(heard.answered)} answered with 200, of these none lost, "
        f"doubled, torn or out of order; of the other {len(heard.unknown)} each at most once"
    )


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    """A small file system in memory."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def grow(at: Path, size: str) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", at], check=True)


def log_disk_full(quick: bool) -> str:
    """The log's disk fills up, and then has room again."""
    count = 300 if quick else 1000
    heard, port, output = Posts(), free_port(), environment.FOLDER / "log_disk.out"
    disk = environment.FOLDER / "log_disk"
    with installation("log_disk_full") as (env, _), small_disk(disk, f"{count * 60}"):
        log = disk / "log.txt"
        env["NOTIFIER_LOG_FILE"] = str(log)
        with service(env=env, port=port, output=output):
            for number in range(count):
                heard.send(port, f"{number}@example.com", f"{number} {'x' * 100}")
            wait_until(lambda: " took only " in output.read_text(), timeout=30, what="the disk is full")
            grow(disk, "16m")
            wait_until(lambda: is_drained(env), timeout=90, what="all is written")
            heard.assert_kept(env, log)
    assert len(heard.answered) == count
    return f"{count} posts, the log's disk full in the middle: all there once, whole"


def data_disk_full(quick: bool) -> str:
    """The data folder's disk (database, journal and the rest) fills up, and then has room again."""
    count = 300 if quick else 1000
    heard, port, output = Posts(), free_port(), environment.FOLDER / "data_disk.out"
    with installation("data_disk_full") as (env, log):
        disk = Path(env["NOTIFIER_DATA_DIR"])
        disk.mkdir()
        with small_disk(disk, "8m"), service(env=env, port=port, output=output):
            filler = disk / "filler"
            filler.write_bytes(bytes(max(0, free_bytes(disk) - 1_500_000)))
            for number in range(count):
                heard.send(port, f"{number}@example.com", f"{number} {'x' * 500}")
            assert heard.refused, "the disk did not fill"
            filler.unlink()
            grow(disk, "64m")
            wait_until(lambda: is_drained(env), timeout=90, what="all is written")
            heard.assert_kept(env, log)
    kept = len(heard.answered)
    return (
        f"{count} posts, the data folder's disk full: {heard.refused} refused with 503, all {kept} that were answered 200 kept"
    )


def free_bytes(path: Path) -> int:
    """The free space of a file system."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def threads_in_transactions(_quick: bool) -> str:
    """Eighty tasks hold SQLite's write lock for 0.1 s each, while 50 POSTs a second come in."""
    heard, port, output = Posts(), free_port(), environment.FOLDER / "in_transactions.out"
    with installation("in_transactions") as (env, log), service(env=env, port=port, output=output):
        execute(env, "CREATE TABLE mark (name text)")
        task = "tests.support.side_by_side_tasks.hold_write_lock"
        enqueue = f"from django_q.tasks import async_task\nfor n in range(80): async_task({task!r}, 0.1, str(n))"
        threading.Thread(target=manage, args=("shell", "--command", enqueue), kwargs={"env": env}, daemon=True).start()
        began = time.monotonic()
        senders: list[threading.Thread] = []
        while not has_ended(env, 80):
            senders.append(threading.Thread(target=heard.send, args=(port, f"{len(senders)}@example.com", ""), daemon=True))
            senders[-1].start()
            time.sleep(max(0.0, began + len(senders) / 50 - time.monotonic()))
            assert len(senders) < 3000, "the tasks don't end"
        for sender in senders:
            sender.join()
        wait_until(lambda: is_drained(env), timeout=60, what="all is written")
        heard.assert_kept(env, log)
        failed = execute(env, "SELECT count(*) FROM durable_queue_failedattempt")[0][0]
        marks = execute(env, "SELECT count(DISTINCT name), count(*) FROM mark")[0]
    assert (failed, marks, heard.refused) == (0, (80, 80), 0), f"{failed} failed, {marks} of 80, {heard.refused} refused"
    return f"80 tasks and {len(senders)} posts meanwhile: none failed, none was refused, and all are written once"


def has_ended(env: Mapping[str, str], count: int) -> bool:
    """Whether so many tasks that held the lock are in the history."""
    found: int = execute(env, "SELECT count(*) FROM django_q_task WHERE func LIKE '%.hold_write_lock'")[0][0]
    return found >= count
