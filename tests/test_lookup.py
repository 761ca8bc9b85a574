"""A task's queue row is found by the task's id, through an index that stays where it is."""

import asyncio
import json
import pickle
import random
import uuid
from collections import UserDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.apps import apps
from django.core.checks import Tags, registry
from django.core.management import call_command
from django.db import DatabaseError, connection, connections
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Substr
from django.db.models.signals import post_migrate
from django.db.utils import load_backend
from django_q.conf import Conf
from django_q.models import OrmQ, Task
from django_q.signals import pre_enqueue
from django_q.signing import SignedPackage
from django_q.tasks import async_task
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_queue import checks
from durable_queue.intake import packaging
from durable_queue.models import FailedAttempt
from durable_queue.store import indexes, lookup
from durable_queue.store.broker import Broker
from durable_queue.store.databases import table_of
from durable_queue.store.queue_connection import own_connection
from durable_queue.store.rows import HISTORY_TABLE, QUEUE_TABLE
from durable_queue.task import signing
from durable_queue.task.identifiers import BadIdError, new_task_id
from tests.support import selection
from tests.support.lookup_rows import TAKE_ONE, RaisesWhenRead, history, package, plan_of, read_from_end_to_end
from tests.support.moving import moving

pytestmark = pytest.mark.django_db(transaction=True)


def with_id_last(task: Mapping[str, Any]) -> dict[str, Any]:
    """The same package in another order."""
    return {key: task[key] for key in [*(key for key in task if key != "id"), "id"]}


def found(task_id: str) -> list[str]:
    """The payloads that the database finds by an id."""
    sql = f"SELECT payload FROM {QUEUE_TABLE} WHERE {table_of(connection).part} = %s ORDER BY id"  # noqa: S608
    return [payload for (payload,) in table_of(connection).run(sql, (lookup.part_of(task_id),))]


def ended(*task_ids: str) -> set[str]:
    """Which tasks have ended, as a worker asks."""
    with own_connection() as own:
        return lookup.ended(table_of(own), task_ids)


ARGUMENTS = {
    "none": (),
    "unicode": ("ä€😀\0\ud800", {"ключ": "値"}),
    "huge text": ("x" * 1_000_000,),
    "huge list": (list(range(100_000)),),
    "bytes": (bytes(range(256)) * 1000,),
    "nested": (json.loads("[" * 200 + "]" * 200),),
    "another's id": ({"id": new_task_id()}, "gAWV", "AAB9lCiMAmlklIwg"),
    "a class": (datetime.now(UTC), uuid.uuid4(), Path),
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_enqueue__a_task_is_found_by_its_id(arguments: tuple[Any, ...]) -> None:
    neighbours = [async_task(TAKE_ONE, number) for number in range(3)]
    ours = packaging.enqueue(TAKE_ONE, arguments, {"group": "an argument"}, name="ours ä")
    theirs = async_task(TAKE_ONE, *arguments, group="a group", hook=TAKE_ONE, task_name="theirs ä", timeout=5)
    for task_id in (ours, theirs, *neighbours):
        (payload,) = found(task_id)
        assert signing.loads(payload)["id"] == task_id


def test_enqueue__in_an_event_loop() -> None:
    (payload,) = found(asyncio.run(packaging.aenqueue(TAKE_ONE, (1,), {}, name="a task")))
    assert lookup.has_id_in_place(payload)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("order", [dict, with_id_last], ids=["id first", "id last"])
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_enqueue__a_package_of_another_making(arguments: tuple[Any, ...], order: Any, *, compressed: bool) -> None:
    task = package(*arguments)
    payload = SignedPackage.dumps(order(task), compressed=compressed)
    Broker().enqueue(payload)
    (stored,) = found(task["id"])
    assert signing.loads(stored) == task
    assert (stored == payload) is lookup.has_id_in_place(payload), "a usual one goes in as it is"


def test_enqueue__a_usual_payload_is_not_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    read = mock.Mock(side_effect=signing.loads)
    monkeypatch.setattr(signing, "loads", read)
    Broker().enqueue_all([signing.dumps(package(number)) for number in range(3)])
    assert not read.called
    Broker().enqueue(SignedPackage.dumps(package(), compressed=True))
    assert read.called


def test_enqueue__bad_payloads_beside_good_ones() -> None:
    first, last, tampered = package(1), package(2), SignedPackage.dumps(package(3), compressed=True)
    bad = [
        "",
        "no package",
        "no:signature:at all ä",
        tampered[:9] + ("A" if tampered[9] != "A" else "B") + tampered[10:],
        SignedPackage.dumps(["a list"]),
        SignedPackage.dumps(UserDict(package())),
        SignedPackage.dumps({"name": "without an id"}),
        SignedPackage.dumps(with_id_last(package(RaisesWhenRead(ValueError)))),
        SignedPackage.dumps(with_id_last(package(RaisesWhenRead(SystemExit)))),
        SignedPackage.dumps(with_id_last(package(RaisesWhenRead(BaseException)))),
    ]
    good = [SignedPackage.dumps(task, compressed=True) for task in (first, last)]
    Broker().enqueue_all([good[0], *bad, good[1]])
    assert [*OrmQ.objects.order_by("id").values_list("payload", flat=True)][1:-1] == bad
    for task in (first, last):
        (payload,) = found(task["id"])
        assert signing.loads(payload) == task


@pytest.mark.parametrize("task_id", [5, None, "short", "x" * 32, "-_+/" * 8, "0" * 33, "ä" * 16, f"{'0' * 31}\n"])
@pytest.mark.parametrize("order", [dict, with_id_last], ids=["id first", "id last"])
def test_enqueue__an_id_that_is_none_is_refused(task_id: object, order: Any) -> None:
    bad = order({**package(1), "id": task_id})
    with pytest.raises(BadIdError, match="32 hexadecimal digits"):
        Broker().enqueue_all([signing.dumps(package(2)), signing.dumps(bad)])
    assert not OrmQ.objects.exists()


def test_enqueue__an_id_that_a_receiver_has_changed_is_refused() -> None:
    def change(task: dict[str, Any], **_: object) -> None:
        task["id"] = "mine"

    pre_enqueue.connect(change)
    try:
        with pytest.raises(BadIdError, match="'mine'"):
            async_task(TAKE_ONE, 1)
        with pytest.raises(BadIdError, match="'mine'"):
            packaging.enqueue(TAKE_ONE, (1,), {}, name="a task")
        with pytest.raises(BadIdError, match="'mine'"):
            asyncio.run(packaging.aenqueue(TAKE_ONE, (1,), {}, name="a task"))
    finally:
        pre_enqueue.disconnect(change)
    assert not OrmQ.objects.exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.datetimes(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values) | st.tuples(values, values),
    max_leaves=8,
)
PACKAGES = st.builds(
    lambda name, args, kwargs, options: {**options, "id": new_task_id(), "name": name, "args": args, "kwargs": kwargs},
    st.text(),
    st.lists(VALUES).map(tuple),
    st.dictionaries(st.text(), VALUES),
    st.dictionaries(st.sampled_from(["group", "hook", "timeout", "chain"]), VALUES),
)


@selection.once
@settings(deadline=None, database=None)
@given(PACKAGES, st.booleans())
def test_with_id_in_place__whatever_the_task(task: dict[str, Any], compressed: bool) -> None:
    first = {"id": task["id"], **task}
    assert signing.dumps(first)[28:68] == SignedPackage.dumps(first)[28:68] == lookup.part_of(task["id"])
    payload = lookup.with_id_in_place(SignedPackage.dumps(task, compressed=compressed))
    assert payload[28:68] == lookup.part_of(task["id"])
    assert signing.loads(payload) == task
    assert lookup.with_id_in_place(payload) is payload


@selection.once
def test_has_id_in_place__another_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    task = package()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        monkeypatch.setattr(signing, "_PROTOCOL", protocol)
        payload = signing.dumps(task)
        assert lookup.has_id_in_place(payload) is (protocol == 5)
    monkeypatch.undo()
    assert lookup.has_id_in_place(signing.dumps(task))


@selection.once
def test_signing__compresses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "COMPRESSED", True)
    assert lookup.has_id_in_place(signing.dumps(package("x" * 1000)))


@selection.once
def test_q_cluster__compress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.conf, "compress", True)
    (error,) = checks.check_q_cluster(None)
    assert error.id == "durable_queue.E004"
    assert "Q_CLUSTER['compress']" in error.msg
    assert "Remove it" in str(error.hint)


# Which tasks have ended.


def test_ended__by_what_became_of_each() -> None:
    queued, retried, failed, succeeded, unknown, again = (new_task_id() for _ in range(6))
    Broker().enqueue_all([signing.dumps(package() | {"id": task_id}) for task_id in (queued, retried, again)])
    OrmQ.objects.filter(payload=found(retried)[0]).update(lock=datetime.now(UTC) + timedelta(minutes=1))
    row, now = OrmQ.objects.get(payload=found(retried)[0]), datetime.now(UTC)
    FailedAttempt.objects.create(
        row=row.pk, task_id=retried, number=1, outcome="failed", worker="alice", started=now, stopped=now
    )
    history(failed, success=False)
    history(succeeded, success=True)
    history(again, success=True)  # it was queued once more since
    assert ended(queued, retried, failed, succeeded, unknown, again) == {succeeded, unknown}


def test_ended__of_none() -> None:
    assert ended() == set()


def test_ended__an_id_that_begins_like_a_queued_one_counts_as_queued() -> None:
    task = package()
    Broker().enqueue(signing.dumps(task))
    task_id = task["id"]
    digits = "0123456789abcdef"
    like = [task_id[:30] + last + end for last in digits for end in digits]
    assert ended(*like) == set()
    other = task_id[:29] + ("0" if task_id[29] != "0" else "1") + task_id[30:]
    assert ended(*like, other) == {other}


@pytest.mark.parametrize("count", [499, 500, 501, 1700])
def test_ended__of_many(count: int) -> None:
    task_ids = [uuid.uuid4().hex for _ in range(count)]
    kept = {task_ids[0], task_ids[-1], *random.sample(task_ids, 30)}
    Broker().enqueue_all([signing.dumps(package() | {"id": task_id}) for task_id in kept])
    kept.add(history(task_ids[count // 2], success=False).id)
    assert ended(*task_ids) == set(task_ids) - kept


def test_ended__while_a_task_goes_from_one_table_to_the_other() -> None:
    task_id = new_task_id()
    payload = signing.dumps(package() | {"id": task_id})
    Broker().enqueue(payload)
    with moving(payload, lambda: history(task_id, success=False)), own_connection() as own:
        for _ in range(1000):
            assert lookup.ended(table_of(own), [task_id]) == set()


@pytest.mark.parametrize("name", [QUEUE_TABLE, HISTORY_TABLE])
def test_ended__the_database_can_not_tell(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {name} RENAME TO away")
    try:
        with pytest.raises(DatabaseError, match=name):
            ended(new_task_id())
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {name}")


def test_is_held__by_this_lease_alone() -> None:
    async_task(TAKE_ONE, 1)
    row, lease = OrmQ.objects.get().pk, datetime(3026, 11, 24, 1, 2, 3, 4005, tzinfo=UTC)
    assert not table_of(connection).is_held(row, lease)
    OrmQ.objects.update(lock=lease)
    assert table_of(connection).is_held(row, lease)
    assert not table_of(connection).is_held(row + 1, lease)
    assert not table_of(connection).is_held(row, lease + timedelta(microseconds=1))
    OrmQ.objects.all().delete()
    assert not table_of(connection).is_held(row, lease)


# How the database goes about it.


@pytest.mark.parametrize("analyzed", ["never", "when empty", "when full"])
def test_ended__goes_by_both_indexes(analyzed: str) -> None:
    with own_connection() as own, own.cursor() as cursor:
        analyze = f"ANALYZE {QUEUE_TABLE}", f"ANALYZE {HISTORY_TABLE}"
        # Tables that the server knows nothing of, like new ones.
        cursor.execute("SELECT 1" if own.vendor == "sqlite" else f"TRUNCATE {QUEUE_TABLE}, {HISTORY_TABLE}")
        if analyzed == "when empty":
            for statement in analyze:
                cursor.execute(statement)
        tasks = [package(number) for number in range(3000)]
        Broker().enqueue_all([signing.dumps(task) for task in tasks])
        now = datetime.now(UTC)
        Task.objects.bulk_create(
            Task(id=new_task_id(), name="t", func="f", started=now, stopped=now, success=False) for _ in range(3000)
        )
        if analyzed == "when full":
            for statement in analyze:
                cursor.execute(statement)
        try:
            plan = plan_of(own, lambda: lookup.ended(table_of(own), [task["id"] for task in tasks[:500]]))
        finally:
            if own.vendor == "sqlite":
                cursor.execute("DROP TABLE IF EXISTS sqlite_stat1")
    assert "cluster_task" in plan
    assert read_from_end_to_end(plan) == []


def test_is_held__goes_by_the_row() -> None:
    Broker().enqueue_all([signing.dumps(package(number)) for number in range(1000)])
    with own_connection() as own:
        plan = plan_of(own, lambda: table_of(own).is_held(OrmQ.objects.latest("pk").pk, datetime.now(UTC)))
    assert read_from_end_to_end(plan) == []


def test_plan__of_an_expression_with_parameters_reads_all() -> None:
    """What the literals of `lookup.PART` are for; and these tests would notice."""
    Broker().enqueue_all([signing.dumps(package(number)) for number in range(1000)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1" if connection.vendor == "sqlite" else "SET enable_seqscan = off")
        try:
            plan = OrmQ.objects.alias(part=Substr("payload", 29, 40)).filter(part=lookup.part_of(new_task_id())).explain()
        finally:
            cursor.execute("SELECT 1" if connection.vendor == "sqlite" else "RESET enable_seqscan")
    assert "cluster_task" not in plan
    assert len(read_from_end_to_end(plan)) == 1


# The indexes on django-q2's tables.


def definitions() -> dict[str, str]:
    """The indexes of both tables, as the database says them."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
        else:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'")
        return dict(cursor.fetchall())


def lost() -> list[str]:
    """What the system check says."""
    return [str(warning.msg) for warning in checks.check_indexes(None, databases=["default"])]


@pytest.fixture
def dropped() -> Iterator[list[str]]:
    """All of the indexes are gone."""
    with connection.cursor() as cursor:
        for name in indexes.INDEXES:
            cursor.execute(f'DROP INDEX "{name}"')
    yield list(indexes.INDEXES)
    indexes.restore_missing("default")


def test_restore_missing__makes_what_the_migrations_made() -> None:
    made = definitions()
    with connection.cursor() as cursor:
        for name in indexes.INDEXES:
            cursor.execute(f'DROP INDEX "{name}"')
    assert indexes.restore_missing("default") == list(indexes.INDEXES)
    assert definitions() == made
    assert indexes.restore_missing("default") == []


@pytest.mark.parametrize("app", ["durable_queue", "django_q"])
def test_restore_missing__after_a_migration_of_either_app(dropped: list[str], app: str) -> None:
    assert not set(dropped) & set(definitions())
    for _ in range(2):
        sender = apps.get_app_config(app)
        post_migrate.send(sender, app_config=sender, verbosity=0, interactive=False, using="default", apps=apps)
        assert set(dropped) <= set(definitions())


def test_check__names_what_is_missing_and_migrate_makes_it_again() -> None:
    assert lost() == []
    before = definitions()
    if connection.vendor == "sqlite":  # as a migration of django-q2's would do it
        with connection.schema_editor() as editor:
            editor._remake_table(OrmQ)  # type: ignore[attr-defined]
    else:
        with connection.cursor() as cursor:
            cursor.execute("DROP INDEX cluster_task; DROP INDEX cluster_claim")
    (message,) = lost()
    assert "cluster_claim, cluster_task" in message
    assert checks.check_indexes(None) == checks.check_indexes(None, databases=[]) == []
    call_command("migrate", verbosity=0, skip_checks=True)
    assert definitions() == before
    assert lost() == []


def test_check__is_registered_for_databases() -> None:
    registered: list[Any] = registry.registry.get_checks()
    assert {check: check.tags for check in registered}[checks.check_indexes] == (Tags.database,)


def test_restore_missing__leaves_out_what_is_not_migrated_yet() -> None:
    before = definitions()
    try:
        call_command("migrate", "durable_queue", "0005", verbosity=0, skip_checks=True)
        assert set(indexes.INDEXES) - set(definitions()) == {"cluster_task", "cluster_failed"}
        call_command("migrate", "durable_queue", "0001", verbosity=0, skip_checks=True)
        assert not set(indexes.INDEXES) & set(definitions())
        assert lost() == []
    finally:
        call_command("migrate", verbosity=0, skip_checks=True)
    assert set(definitions()) == set(before)


def test_missing__in_a_database_without_the_tables(tmp_path: Path) -> None:
    engine = "django.db.backends.sqlite3"
    settings = connections.settings["default"] | {"ENGINE": engine, "NAME": tmp_path / "other", "OPTIONS": {}}
    other = load_backend(engine).DatabaseWrapper(settings, "default")
    try:
        recorder = MigrationRecorder(other)
        recorder.ensure_schema()
        for index in indexes.INDEXES.values():
            # As where a router has the tables made elsewhere only.
            recorder.record_applied("durable_queue", index.migration)
        assert indexes.missing(other) == []
    finally:
        other.close()


def test_makemigrations__has_nothing_to_make() -> None:
    call_command("makemigrations", "durable_queue", check_changes=True, dry_run=True, verbosity=0)
