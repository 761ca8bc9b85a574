"""`manage.py qcluster`: run the queued tasks."""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand
from django_q.conf import Conf

from durable_queue.cluster.supervisor import Supervisor
from durable_queue.conf import cluster_conf


def _number(text: str) -> int:
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"{number} is no number from 1 on")
    return number


class Command(BaseCommand):
    """Replaces django-q2's command of the same name. It has all its options, and more."""

    help = "Run the workers of a queue until SIGTERM or Ctrl-C. SIGHUP replaces them one by one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Define the options."""
        parser.add_argument("--run-once", action="store_true", help="Run what is due, then exit: for cron and tests.")
        parser.add_argument(
            "-n", "--name", dest="cluster_name", help="The queue to serve, one of ALT_CLUSTERS; as Q_CLUSTER_NAME."
        )
        parser.add_argument("--workers", type=_number, help=f"How many worker processes (here: {Conf.WORKERS}).")
        threads = f"How many tasks each of them runs at once (here: {cluster_conf.threads})."
        parser.add_argument("--threads", type=_number, help=threads)

    def handle(self, *args: Any, **options: Any) -> None:
        """Become the supervisor."""
        name = options["cluster_name"]
        if name and name != Conf.CLUSTER_NAME:
            # django-q2 reads its settings once, at import. Start again, with the name in the variable that it reads.
            os.environ["Q_CLUSTER_NAME"] = name
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606
        workers, threads = options["workers"] or Conf.WORKERS, options["threads"] or cluster_conf.threads
        sys.exit(Supervisor(workers=workers, threads=threads, run_once=options["run_once"]).run())
