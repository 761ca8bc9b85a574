"""A worker process, from fork to exit."""

import logging
import multiprocessing
import os
import signal
import threading
import time

from django.db import Error as DatabaseError
from django.db import connections
from django.utils import timezone
from django_q.conf import Conf, logger
from django_q.signals import post_spawn

from durable_queue import signals
from durable_queue.models import Worker
from durable_queue.store import queue_connection
from durable_queue.store.broker import Broker
from durable_queue.store.freeing import free
from durable_queue.store.queue_connection import QUEUE
from durable_queue.task import running, uninterrupted
from durable_queue.work import kernel, task_connections, write_lock
from durable_queue.work.birth import Birth
from durable_queue.work.children import Children, ignore
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.holdings import DATABASE_PAUSE
from durable_queue.work.loop import Loop
from durable_queue.work.lost_workers import free_dead
from durable_queue.work.progress import Progress
from durable_queue.work.stop import Stop
from durable_queue.work.surroundings import Surroundings
from durable_queue.work.titles import show_title

# The exit code of a worker that ended with tasks still due, in a cluster that runs once: the supervisor starts another
# (sysexits.h).
AGAIN = 75


def main(birth: Birth, progress: Progress) -> None:
    """The life of a worker process, from fork to exit."""
    os.setsid()  # Ctrl-C in a terminal is the supervisor's to hear
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGHUP, ignore)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stop = Stop(progress, birth.supervisor_wakes)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD])
    kernel.die_with_parent(birth.supervisor_pid)
    if Conf.CPU_AFFINITY:
        _bind_to_cpus(birth)
    queue_connection.prepare_worker()
    task_connections.prepare_worker(threads=birth.threads)
    uninterrupted.prepare_worker()
    write_lock.prepare_worker()
    kernel.adopt_orphans()  # what a task leaves running ends with its worker
    Children(threads=birth.threads)
    broker = Broker(birth.queue, using=QUEUE, follow_up=follow_up)
    code = 0
    with progress.ticking():
        me = _register(birth, stop)
    if me:
        _tell_of_start()
        loop = Loop(broker, me, progress, stop, birth, Surroundings(threads=birth.threads))
        _work(loop, birth)
        _say_goodbye(broker, me, progress)
        left_work = loop.runner.has_run > 0 if birth.alone else not (loop.is_drained or stop.was_told)
        code = AGAIN if birth.run_once and left_work else 0
    else:
        progress.path.unlink(missing_ok=True)
    # Not through the interpreter's end: exit handlers that were inherited from the supervisor are not ours to run.
    logging.shutdown()
    os._exit(code)


def _work(loop: Loop, birth: Birth) -> None:
    """Run tasks until told to stop, or until the worker retires."""
    name = multiprocessing.current_process().name
    logger.info("%s ready for work at %d", name, os.getpid())
    post_spawn.send(sender="django_q", proc_name=name)
    show_title("working" if birth.threads > 1 else "idle")
    if birth.threads > 1:
        running.prepare_worker()
        loop.crew.start()
        loop.watch.run()
    else:
        threading.Thread(target=loop.watch.run_in_thread, daemon=True).start()
        running.prepare_worker()
        loop.crew.lead_alone()
    logger.info("%s stopped doing work", name)


def _tell_of_start() -> None:
    for receiver, error in signals.worker_started.send_robust(sender="durable_queue"):
        if isinstance(error, Exception):
            logger.error("worker_started receiver %s failed: %s", receiver, error)


def _bind_to_cpus(birth: Birth) -> None:
    """https://django-q2.readthedocs.io/en/master/configure.html#cpu-affinity."""
    cpus = sorted(os.sched_getaffinity(0))
    start = birth.restarts * Conf.CPU_AFFINITY
    os.sched_setaffinity(0, {cpus[(start + n) % len(cpus)] for n in range(Conf.CPU_AFFINITY)})


def _register(birth: Birth, stop: Stop) -> Worker | None:
    """Store this process's row, once the leases of this host's dead are free; waits for the database."""
    pause = DATABASE_PAUSE[0]
    while not stop.noted:
        now = timezone.now()
        try:
            free_dead(Broker(using=QUEUE, follow_up=follow_up))
            return Worker.objects.using(QUEUE).create(
                name=birth.name,
                queue=birth.queue,
                host=kernel.host_id(),
                pid=os.getpid(),
                born=kernel.born(os.getpid()),
                supervisor=birth.supervisor,
                supervisor_pid=birth.supervisor_pid,
                restarts=birth.restarts,
                started=now,
                heartbeat=now,
            )
        except DatabaseError as error:
            logger.warning("A worker waits %.1f s for the database: %s", pause, str(error).strip())
            connections[QUEUE].close()
            time.sleep(pause)
            pause = min(pause * 2, DATABASE_PAUSE[1])
    return None


def _say_goodbye(broker: Broker, me: Worker, progress: Progress) -> None:
    try:
        free(broker, me)
        progress.path.unlink(missing_ok=True)
    except DatabaseError:
        logger.warning("%s could not take leave of the database; the next worker frees what it held", me)
