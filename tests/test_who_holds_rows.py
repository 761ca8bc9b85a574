"""Who holds a row, seen with real processes: a worker whose own row is missing, and one that its neighbour may not see."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from django.conf import settings
from django.db import transaction
from django_q.models import OrmQ, Success
from django_q.tasks import async_task

from tests.support import environment, selection
from tests.support.clusters import Cluster, all_end
from tests.support.installations import execute, new_installation
from tests.support.processes import manage, running, wait_until

LEASE = datetime(3026, 1, 1, 0, 0, 0, 7, tzinfo=UTC)  # as a worker names its own


@selection.slow_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_ownerless__rows_run_and_those_that_are_held_run_once(cluster: Cluster) -> None:
    """After a partial restore, rows are held, and no worker is there that holds them."""
    with transaction.atomic():
        ids = [async_task("math.hypot", number, 1) for number in range(5)]
        OrmQ.objects.update(lock=LEASE)
    with cluster() as output:
        held = async_task("time.sleep", 7)
        all_end()
    assert Success.objects.filter(pk__in=[*ids, held], attempt_count=1).count() == 6
    assert output.read_text().count("5 rows were held by a worker whose own row is missing") == 1


@contextmanager
def folder_of_all() -> Iterator[Path]:
    """A folder that every user may enter and write to."""
    folder = Path(tempfile.mkdtemp(prefix="notifier-users-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def user(uid: int, *, env: dict[str, str], folder: Path) -> Iterator[psutil.Process]:
    """A cluster of this user, who sees no other user's processes, as with ProtectProc=invisible in systemd."""
    start = shlex.join([sys.executable, "-B", "manage.py", "qcluster", "--workers", "1"])
    become = f"setpriv --reuid={uid} --regid={uid} --clear-groups"
    hide = "mount -t proc -o hidepid=2 proc /proc"
    if environment.DATABASE == "postgresql":  # whose socket lies where only root may go
        socket = Path(parse_qs(urlsplit(env["DATABASE_URL"]).query)["host"][0]) / ".s.PGSQL.5432"
        (folder / socket.name).touch()
        hide += f" && mount --bind {socket} {folder / socket.name}"
        env = env | {"DATABASE_URL": env["DATABASE_URL"].replace(str(socket.parent), str(folder))}
    inner = f"{hide} && umask 0 && exec {become} {start}"
    own = {"NOTIFIER_DATA_DIR": str(folder / f"{uid}"), "NOTIFIER_LOG_FILE": str(folder / f"{uid}.txt"), "HOME": str(folder)}
    output = folder / f"{uid}.output"
    with running(["unshare", "--mount", "sh", "-c", inner], env=env | own, output=output) as process:
        yield psutil.Process(process.pid)


@selection.slow
def test_users__who_see_no_processes_of_each_other() -> None:
    """Neither takes the other's workers for dead, as long as their heartbeats go on; and a dead one's rows are freed."""
    if os.geteuid():
        selection.missing("root, who may become other users")
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_all())
        env = stack.enter_context(new_installation(folder)) | {"SECRET_KEY": settings.SECRET_KEY}
        manage("migrate", "--verbosity=0", env=env)
        if environment.DATABASE == "sqlite":
            (folder / "var").chmod(0o777)
            (folder / "var" / "db.sqlite3").chmod(0o666)
            env["DATABASE_URL"] = f"sqlite:///{folder / 'var' / 'db.sqlite3'}"
        first = stack.enter_context(user(65534, env=env, folder=folder))
        stack.enter_context(user(54321, env=env, folder=folder))

        def count(rows: str) -> int:
            return int(execute(env, f"SELECT count(*) FROM {rows}")[0][0])  # noqa: S608 - of this test  # noqa: S608 - of this test

        wait_until(lambda: count("durable_queue_worker") == 2, what="both work")
        notes = folder / "notes"
        notes.touch()
        notes.chmod(0o666)
        task = f"async_task('tests.support.host_tasks.note_host', {str(notes)!r}, n, 8.0)"
        command = f"from django_q.tasks import async_task\nfor n in range(60): {task}"
        manage("shell", "-c", command, env=env)
        wait_until(lambda: count("durable_queue_worker WHERE lease IS NOT NULL") == 2, what="both have tasks in hand")
        wait_until(lambda: count("django_q_task") == 60, timeout=40, what="all are done")
        assert len(notes.read_text().splitlines()) == 60
        assert count("durable_queue_failedattempt") == 0
        for process in reversed([first, *first.children(recursive=True)]):
            process.kill()
        wait_until(lambda: count("durable_queue_worker") == 1, timeout=20, what="the dead one's row is gone")
