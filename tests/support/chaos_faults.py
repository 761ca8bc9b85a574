"""Every fault that the service must bear, in random order, while 200 POSTs a second come in: a scenario of `scripts/chaos`.

Each POST is answered within 5 s. Each that is acknowledged is written once. The service is as before within 5 s of a fault's
end, 15 s where a host was lost, with the processes, descriptors and connections that it had before. And each fault proves that
it bit.
"""

import os
import random
import resource
import signal
import socket
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from tests.support import environment
from tests.support.chaos_load import STARTED, Site
from tests.support.chaos_over_http import installation
from tests.support.hosts import host
from tests.support.installations import database, execute
from tests.support.processes import free_port, wait_until

Fault = Callable[[Site], str]  # does harm, undoes it, and returns how it bit

MINUTES = 10.0
_CLIENTS = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


def _new(site: Site, words: str, before: int, *, timeout: float = 20.0) -> int:
    """How many more times the service says this than before; one, at least."""
    wait_until(lambda: site.said.count(words) > before, timeout=timeout, what=f"it says: {words}")
    return site.said.count(words) - before


def _replaced(find: Callable[[], list[psutil.Process]], victim: psutil.Process) -> str:
    count = len(find())
    victim.kill()

    def is_replaced() -> bool:
        with suppress(psutil.Error, IndexError):
            pids = {process.pid for process in find()}
            return victim.pid not in pids and len(pids) == count
        return False

    wait_until(is_replaced, what=f"{victim} is replaced")
    return "1 restart"


def _unavailable(site: Site, before: int) -> str:
    assert site.answers["503"] > before, "no POST was refused"
    return f"{site.answers['503'] - before} answers with 503"


# Processes.


def a_web_process_is_killed(site: Site) -> str:
    return _replaced(lambda: site.children("web"), random.choice(site.children("web")))


def a_web_process_hangs(site: Site) -> str:
    said = site.said.count("gave no sign of life for 10 s")
    victim = random.choice(site.children("web"))
    wait_until(lambda: time.time() - victim.create_time() > 5, what="it has shown life: until then, it has 60 s")
    victim.send_signal(signal.SIGSTOP)
    _new(site, "gave no sign of life for 10 s", said)
    wait_until(lambda: len(site.children("web")) == 2, what="it is replaced")
    return "1 restart"


def a_worker_is_killed(site: Site) -> str:
    return _replaced(lambda: site.workers, random.choice(site.workers))


def a_worker_is_stopped(site: Site) -> str:
    said = site.said.count("gave no sign of life for 5 s")
    random.choice(site.workers).send_signal(signal.SIGSTOP)
    _new(site, "gave no sign of life for 5 s", said)
    return "1 restart"


def the_upkeep_is_killed(site: Site) -> str:
    workers = {process.pid for process in site.workers}
    upkeep = next(child for child in site.supervisor.children() if child.pid not in workers)
    return _replaced(site.supervisor.children, upkeep)


def the_supervisor_is_killed(site: Site) -> str:
    return _replaced(lambda: site.children("qcluster"), site.supervisor)


def the_parent_is_killed(site: Site) -> str:
    starts = site.starts
    os.kill(site.parent.pid, signal.SIGKILL)
    wait_until(lambda: site.starts > starts, what="it is started again")
    wait_until(lambda: bool(site.children("web")), timeout=20, what="it works")
    return "1 start"


def it_is_told_to_stop_beside_a_deaf_task(site: Site) -> str:
    starts, parent = site.starts, site.parent
    site.queue("fault_tasks.set_signals_aside", 3.0)
    time.sleep(1)
    parent.terminate()
    assert parent.wait(15) == 0
    wait_until(lambda: site.starts > starts and bool(site.children("web")), timeout=20, what="it is started again")
    return "1 stop, exit code 0"


def no_process_can_be_started(site: Site) -> str:
    said = site.said.count("No process can be started")
    starters = (site.parent.pid, site.supervisor.pid)
    for starter in starters:
        resource.prlimit(starter, resource.RLIMIT_NOFILE, (3, 4096))
    try:
        site.workers[0].kill()
        lines = _new(site, "No process can be started", said)
        time.sleep(3)
    finally:
        for starter in starters:
            resource.prlimit(starter, resource.RLIMIT_NOFILE, (1024, 4096))
    return f"{lines} line said so"


# Tasks and rows.


def a_task_kills_its_worker(site: Site) -> str:
    query = "SELECT count(*) FROM durable_queue_failedattempt WHERE outcome = 'lost'"
    before = site.count(query)
    site.queue("fault_tasks.die", f"{site.env['NOTIFIER_DATA_DIR']}/has-died-{before}")
    wait_until(lambda: site.count(query) > before, timeout=20, what="it is charged")
    return "1 lost attempt"


def a_task_leaves_a_transaction_open(site: Site) -> str:
    query = "SELECT count(*) FROM durable_queue_failedattempt WHERE error LIKE '%left a database transaction open%'"
    before = site.count(query)
    site.queue("fault_tasks.leave_transaction_open")
    wait_until(lambda: site.count(query) > before, what="it has failed")
    return "1 failed attempt"


def a_hook_hangs(site: Site) -> str:
    said = site.said.count(HOOK)
    site.queue("cluster_tasks.take_one", 1, hook="tests.support.fault_tasks.hang")
    return f"{_new(site, HOOK, said)} line said so"


HOOK = "fault_tasks.hang"


def rows_that_are_no_tasks(site: Site) -> str:
    query = "SELECT count(*) FROM durable_queue_deadletter"
    before = site.count(query)
    for payload in ("nonsense", "", "x" * 1000):
        execute(site.env, f"INSERT INTO django_q_ormq (key, payload, lock) VALUES ('notifier', '{payload}', '2020-01-01')")  # noqa: S608
    wait_until(lambda: site.count(query) == before + 3, what="they are refused")
    return "3 dead letters"


def rows_whose_worker_is_missing(site: Site) -> str:
    said = site.said.count("whose own row is missing")
    lock = "3026-01-01 00:00:00" + random.choice((".000001", ".000002", ".000003"))
    execute(site.env, f"INSERT INTO django_q_ormq (key, payload, lock) VALUES ('notifier', 'ownerless', '{lock}')")  # noqa: S608
    return f"{_new(site, 'whose own row is missing', said)} line said so"


def a_progress_file_is_unreadable(site: Site) -> str:
    said = site.said.count("had in hand can't be read")
    victim = random.choice(site.workers)
    ((name,),) = execute(site.env, f"SELECT name FROM durable_queue_worker WHERE pid = {victim.pid}")  # noqa: S608
    (path,) = Path(site.env["NOTIFIER_DATA_DIR"]).rglob(f"{name}.progress")
    path.unlink()
    path.mkdir()
    victim.kill()
    lines = _new(site, "had in hand can't be read", said)
    path.rmdir()
    return f"{lines} line said so"


# Output and clients.


def nobody_reads_the_output(site: Site) -> str:
    said = site.said.count("lines dropped")
    site.is_read.clear()
    site.queue("fault_tasks.chatter", 4)
    time.sleep(4)
    site.is_read.set()
    return f"{_new(site, 'lines dropped', said)} line told of the dropped ones"


def many_clients_send_beginnings(site: Site) -> str:
    closed, clients = 0, []
    with ExitStack() as stack:
        for number in range(2000):  # more than both web processes together have descriptors for
            with suppress(OSError):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=2))
                client.send((b"X", b"PO", b"POST / HTTP/1.1\r\nHost: ")[number % 3])
                clients.append(client)
        time.sleep(2)
        for client in clients:
            client.settimeout(0.0001)
            try:
                closed += client.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                closed += 1
    assert closed, "none had to give way"
    return f"{closed} gave way"


# The database.


def the_database_is_locked(site: Site) -> str:
    before = site.answers["503"]
    with database(site.env) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(6)
        connection.execute("ROLLBACK")
    return _unavailable(site, before)


@contextmanager
def _altered(site: Site, setting: str, value: str) -> Iterator[None]:
    with psycopg.connect(site.env["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local; SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET {setting} = {value}")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute(f"ALTER SYSTEM RESET {setting}")
            connection.execute("SELECT pg_reload_conf()")


def a_standby_is_missing(site: Site) -> str:
    before = site.answers["503"]
    with _altered(site, "synchronous_standby_names", "'nobody'"):
        time.sleep(8)
    return _unavailable(site, before)


def the_database_is_read_only(site: Site) -> str:
    before = site.answers["503"]
    with _altered(site, "default_transaction_read_only", "on"):
        time.sleep(5)
    return _unavailable(site, before)


def all_connections_are_ended(site: Site) -> str:
    ended = execute(site.env, f"SELECT pg_terminate_backend(pid) {_CLIENTS}")
    return f"{len(ended)} ended"


def a_host_is_lost(site: Site) -> str:
    query = "SELECT count(*) FROM durable_queue_worker WHERE host LIKE 'beta %'"
    env = {name: value for name, value in site.env.items() if name != "PORT"}
    with host("beta", env=env, output=environment.FOLDER / "beta.out", workers=1) as beta:
        wait_until(lambda: site.count(query) == 1, what="the other host works")
        time.sleep(2)
        for process in reversed([beta, *beta.children(recursive=True)]):
            with suppress(psutil.Error):
                process.kill()
        began = time.monotonic()
        wait_until(lambda: not site.count(query), timeout=15, what="its lease is freed")
    return f"freed after {time.monotonic() - began:.0f} s"


EVERYWHERE: list[Fault] = [
    a_web_process_is_killed,
    a_web_process_hangs,
    a_worker_is_killed,
    a_worker_is_stopped,
    the_upkeep_is_killed,
    the_supervisor_is_killed,
    the_parent_is_killed,
    it_is_told_to_stop_beside_a_deaf_task,
    no_process_can_be_started,
    a_task_kills_its_worker,
    a_task_leaves_a_transaction_open,
    a_hook_hangs,
    rows_that_are_no_tasks,
    rows_whose_worker_is_missing,
    a_progress_file_is_unreadable,
    nobody_reads_the_output,
    many_clients_send_beginnings,
]
ONLY_ON: Mapping[str, list[Fault]] = {
    "sqlite": [the_database_is_locked],
    "postgresql": [a_standby_is_missing, the_database_is_read_only, all_connections_are_ended, a_host_is_lost],
}

# With these, clients lose connections: their process ends in the middle, or hangs for 10 s.
CUT_OFF = {a_web_process_is_killed, a_web_process_hangs, the_parent_is_killed, it_is_told_to_stop_beside_a_deaf_task}


@dataclass
class Row:
    """What became of one kind of fault."""

    bit: list[str] = field(default_factory=list)
    normal: list[float] = field(default_factory=list)  # seconds from its end until the service was as before
    answers: Counter[str] = field(default_factory=Counter)


@contextmanager
def _site() -> Iterator[Site]:
    with ExitStack() as stack:
        env, _ = stack.enter_context(installation("faults"))
        if environment.DATABASE == "postgresql":  # of its own: it is altered as a whole
            env["DATABASE_URL"] = stack.enter_context(environment.own_server(environment.FOLDER / "faults-server"))
        site = Site({**env, "NOTIFIER_TASK_TIMEOUT": "5"}, free_port())
        try:
            yield site
        finally:
            site.kill()


def faults(quick: bool) -> str:
    """Every fault while 200 POSTs a second come in: each is answered in time, and each that is acknowledged is written once."""
    kinds = EVERYWHERE + ONLY_ON[environment.DATABASE]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    rows: dict[Fault, Row] = defaultdict(Row)
    with _site() as site:
        site.begin()
        time.sleep(3)
        open_before, connections_before = site.open_files(), _connections(site)
        until = time.monotonic() + (0 if quick else 60 * MINUTES)
        while time.monotonic() < until or not rows:
            for fault in random.sample(kinds, len(kinds)):
                _try(fault, site, rows)
        time.sleep(3)
        open_after, connections_after = site.open_files(), _connections(site)
        assert site.end() == 0
        assert open_after <= open_before + STARTED, f"{open_before} descriptors before, {open_after} afterwards"
        assert connections_after <= connections_before + 2, f"{connections_before} connections, {connections_after} afterwards"
        total = site.answers
    return _table(rows) + (
        f"\n{total.total()} POSTs: {dict(total)}; descriptors {open_before}, {open_after} afterwards; "
        f"database connections {connections_before}, {connections_after} afterwards"
    )


def _try(fault: Fault, site: Site, rows: dict[Fault, Row]) -> None:
    wait_until(site.is_whole, timeout=15, what="all processes are there")
    row = rows[fault]
    before = site.answers.copy()
    site.said += f"--- {time.ctime()}: {fault.__name__}\n"
    try:
        row.bit.append(fault(site))
        limit = 15.0 if fault is a_host_is_lost else 5.0
        row.normal.append(site.seconds_until_normal(limit))
        wait_until(site.is_whole, timeout=15, what="all processes are there again")
        came = site.answers - before
        assert fault in CUT_OFF or not came["late"] + came["cut off"], f"{dict(came)}"
        assert set(came) <= {"200", "503", "late", "cut off", "refused"}, f"{dict(came)}"
    except Exception as error:
        error.add_note(f"in {fault.__name__}; the service said last:\n{site.said[-3000:]}")
        error.add_note(f"without an answer, the last ones: {site.unanswered[-10:]}")
        for table in ("django_q_ormq", "durable_queue_worker", "durable_queue_failedattempt"):
            with suppress(Exception):  # what broke it may have broken this, too
                found = execute(site.env, f"SELECT * FROM {table} ORDER BY id DESC LIMIT 8")  # noqa: S608 - one of the three
                error.add_note(f"{table}: {found}")
        error.add_note(_table(rows))
        raise
    row.answers += came


def _connections(site: Site) -> int:
    if environment.DATABASE == "sqlite":
        return 0
    return site.count(f"SELECT count(*) {_CLIENTS}")


def _table(rows: Mapping[Fault, Row]) -> str:
    lines = [
        "",
        "| fault | times | how it bit, the last time | normal again after, most | POSTs 200 / 503 / cut off / not connected |",
    ]
    lines.append("|---|---|---|---|---|")
    for fault, row in sorted(rows.items(), key=lambda item: item[0].__name__):
        if not row.normal:
            continue  # the one that failed
        came = row.answers
        cut = came["cut off"] + came["late"]
        lines.append(
            f"| {fault.__name__.replace('_', ' ')} | {len(row.bit)} | {row.bit[-1]} | {max(row.normal):.1f} s "
            f"(median {statistics.median(row.normal):.1f}) | {came['200']} / {came['503']} / {cut} / {came['refused']} |"
        )
    return "\n".join(lines)
