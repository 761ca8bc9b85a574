"""Payloads and history rows of tests that look tasks up, and how the database does that."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn
from unittest import mock

from django.db.backends.base.base import BaseDatabaseWrapper
from django_q.models import Task

from durable_queue.intake import packaging
from durable_queue.store.databases import table_of
from durable_queue.store.table import Table
from tests.support import environment

TAKE_ONE = "tests.support.cluster_tasks.take_one"
EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}


class RaisesWhenRead:
    """An argument whose unpickling raises."""

    def __init__(self, error: type[BaseException]) -> None:
        """`error`: what it raises."""
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_it, (self.error,)


def raise_it(error: type[BaseException]) -> NoReturn:
    """Raise."""
    raise error


def package(*args: Any) -> dict[str, Any]:
    """A task package as django-q2 makes it."""
    return packaging.new_task(TAKE_ONE, args, {}, name="a task")


def history(task_id: str, *, success: bool) -> Task:
    """A row of the history, stored."""
    now = datetime.now(UTC)
    return Task.objects.create(id=task_id, name="a task", func=TAKE_ONE, started=now, stopped=now, success=success)


def plan_of(connection: BaseDatabaseWrapper, ask: Callable[[], object]) -> str:
    """How the database runs the statements of this module."""
    kind = type(table_of(connection))
    run = kind.run
    plans: list[str] = []

    def explain(self: Table, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        plans.extend(str(row[-1]) for row in run(self, f"{EXPLAIN[connection.vendor]} {sql}", values))
        return run(self, sql, values)

    with mock.patch.object(kind, "run", explain):
        ask()
    return "\n".join(plans)


def read_from_end_to_end(plan: str) -> list[str]:
    """The scans in a plan that look no value up."""
    if environment.DATABASE == "sqlite":
        return re.findall(r"SCAN (?:django_q_\w+|done|[acqh])\b.*", plan)
    nodes = re.split(r"->|\bSubPlan\b", plan)
    by_value = ("Index Cond", "Recheck Cond")  # the latter of a scan of what an index has found
    return [node for node in nodes if " Scan " in node and "django_q_" in node and not any(each in node for each in by_value)]
