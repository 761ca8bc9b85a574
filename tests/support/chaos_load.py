"""The service under `scripts/chaos faults`: a load of POSTs, an output that is read, and what it all comes to."""

import asyncio
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.chaos_over_http import Posts
from tests.support.installations import execute
from tests.support.processes import PROJECT, manage, processes_of, wait_until

LATEST = 5.0  # seconds until a POST must be answered
RATE = 200  # POSTs a second
STARTED = 7  # processes of the service: its parent, two of the web, the queue's supervisor, its upkeep, two workers


class Site:
    """One service, started again whenever it ends, as by systemd."""

    def __init__(self, env: Mapping[str, str], port: int) -> None:
        self.env = {**env, "PORT": str(port)}
        self.port = port
        self.posts = Posts()
        self.answers: Counter[str] = Counter()  # by what came: "200", "503", "cut off", "refused", "late"
        self.unanswered: list[str] = []  # when each was sent that came to "cut off" or "late", and when that was seen
        self.starts = 0
        self.is_read = threading.Event()  # whether somebody reads the output
        self.is_read.set()
        self.said = ""
        self._is_over = False
        self.parent = self._start()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._keep_alive, self._post_all)]

    # The service.

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        process = subprocess.Popen(
            ["prlimit", "--nofile=1024:4096", PROJECT / "scripts" / "serve"],
            env=os.environ | self.env,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        rest = b""
        while self.is_read.wait() and (data := os.read(process.stdout.fileno(), 1 << 16)):
            *lines, rest = (rest + data).split(b"\n")
            self.said += "".join(line.decode(errors="replace") + "\n" for line in lines if b"chatter chatter" not in line)
        process.stdout.close()

    def _keep_alive(self) -> None:
        while not self._is_over:
            if self.parent.poll() is not None:
                self.parent = self._start()
            time.sleep(0.1)

    def begin(self) -> None:
        """Wait for the service; then the load begins."""
        wait_until(lambda: "Notifier is ready" in self.said, timeout=60, what="the service is ready")
        wait_until(self.is_whole, what="all processes are there")
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        """End the load, then the service; return its exit code. Each acknowledged POST must be written once by then."""
        self._is_over = True
        for thread in self._threads:
            thread.join()
        with suppress(AssertionError):  # which says more when it is asked again
            wait_until(self._all_are_written, timeout=120)
        self.parent.terminate()
        code = self.parent.wait(30)
        self.posts.assert_kept(self.env, Path(self.env["NOTIFIER_LOG_FILE"]))
        return code

    def _all_are_written(self) -> bool:
        try:
            self.posts.assert_kept(self.env, Path(self.env["NOTIFIER_LOG_FILE"]))
        except AssertionError:
            time.sleep(1)
            return False
        return True

    def kill(self) -> None:
        """End all that is left."""
        self._is_over = True
        self.is_read.set()
        for process in processes_of(self.env):
            with suppress(psutil.Error):
                process.kill()

    # What there is.

    def children(self, name: str) -> list[psutil.Process]:
        """The parent's children with this word in their command line: `web` or `qcluster`."""
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.parent.pid).children():
                with suppress(psutil.Error):
                    if name in " ".join(child.cmdline()):
                        found.append(child)
        return found

    @property
    def supervisor(self) -> psutil.Process:
        """The queue's supervisor."""
        return self.children("qcluster")[0]

    @property
    def workers(self) -> list[psutil.Process]:
        """The workers' processes that have registered."""
        pids = {pid for (pid,) in execute(self.env, "SELECT pid FROM durable_queue_worker WHERE queue NOT LIKE '%:alone'")}
        return [child for child in self.supervisor.children() if child.pid in pids]

    def is_whole(self) -> bool:
        """Whether all processes are there, and no more."""
        with suppress(psutil.Error, IndexError):
            return len(processes_of(self.env)) == STARTED and len(self.workers) == 2
        return False

    def open_files(self) -> int:
        """How many descriptors the processes that stay have open."""
        return sum(process.num_fds() for process in (psutil.Process(self.parent.pid), *self.children("web"), self.supervisor))

    def count(self, query: str) -> int:
        """The number that a query gives."""
        return int(execute(self.env, query)[0][0])

    def queue(self, path: str, *args: object, **options: object) -> None:
        """Queue a task of `tests.support`."""
        call = f"async_task('tests.support.{path}', *{args!r}, **{options!r})"
        manage("shell", "--no-imports", "--command", f"from django_q.tasks import async_task; {call}", env=self.env)

    # The load.

    def _post_all(self) -> None:
        asyncio.run(self._post_until_over())

    async def _post_until_over(self) -> None:
        began, tasks = time.monotonic(), set[asyncio.Task[str]]()
        number = 0
        while not self._is_over:
            number += 1
            task = asyncio.create_task(self.post(f"{number}@example.com"))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        await asyncio.gather(*tasks)

    async def post(self, email: str) -> str:
        """Post once; return what came, and count it."""
        address = f"{self.posts.token}.{email}"
        came, is_sent, began = "late", False, time.time()
        try:
            async with asyncio.timeout(LATEST):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                is_sent = True
                writer.write(f"POST /send-notification/{address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                line = await reader.readline()
                writer.close()
                came = line.split()[1].decode() if line else "cut off"
        except TimeoutError:
            pass
        except OSError:
            came = "cut off" if is_sent else "refused"
        self.answers[came] += 1
        if came in {"late", "cut off"}:
            self.unanswered.append(f"{came}, sent at {time.ctime(began)}, {time.time() - began:.3f} s before")
        if is_sent:
            (self.posts.answered if came == "200" else self.posts.unknown).append((address, ""))
        return came

    def seconds_until_normal(self, limit: float) -> float:
        """How long it takes until a POST is answered with 200, and its line is in the log. Fails after `limit` seconds."""
        began, log = time.monotonic(), Path(self.env["NOTIFIER_LOG_FILE"])
        attempt = 0
        while time.monotonic() - began < limit:
            attempt += 1
            email = f"normal-{self.starts}-{began}-{attempt}@example.com"
            if asyncio.run(self.post(email)) != "200":
                time.sleep(0.05)
                continue
            line = f"message to {self.posts.token}.{email}\n".encode()
            while time.monotonic() - began < limit:
                if line in log.read_bytes()[-2_000_000:]:
                    return time.monotonic() - began
                time.sleep(0.05)
        raise AssertionError(f"not normal again within {limit:g} s")
