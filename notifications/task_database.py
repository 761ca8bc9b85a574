"""The tasks' database, as the log file uses it: it implements `Database` in notifications/log/protocols.py."""

import secrets
from collections.abc import Collection

from django.db import connections
from django_q.conf import Conf

from durable_queue.store import lookup
from durable_queue.store.databases import table_of
from durable_queue.store.queue_connection import outside_of_event_loops, own_connection
from notifications.models import Journal

JOURNALS = Journal._meta.db_table


class TaskDatabase:
    """The queue's database. Each method may raise django.db.Error, and then it has changed nothing."""

    def is_ours_alone(self) -> bool:
        """Whether the caller is in a transaction on SQLite, which allows one writer at a time."""
        connection = connections[Conf.ORM or "default"]
        return table_of(connection).has_one_writer and connection.in_atomic_block

    @outside_of_event_loops
    def id_for(self, journal: str) -> bytes:
        """The database's id for this journal, 8 bytes. The first call makes it."""
        ask = f"SELECT database FROM {JOURNALS} WHERE journal = %s"  # noqa: S608
        with own_connection() as connection:
            table = table_of(connection)
            found = table.run(ask, (journal,))
            if not found:
                make = f"INSERT INTO {JOURNALS} (journal, database, trims) VALUES (%s, %s, 0) ON CONFLICT DO NOTHING"  # noqa: S608
                with table.turn():
                    table.run(make, (journal, secrets.token_hex(8)))
                found = table.run(ask, (journal,))
        return bytes.fromhex(found[0][0])

    @outside_of_event_loops
    def ended(self, tasks: Collection[bytes]) -> set[bytes]:
        """The tasks among these (16 bytes each) that are neither queued nor kept as failed."""
        with own_connection() as connection:
            return {bytes.fromhex(task) for task in lookup.ended(table_of(connection), [task.hex() for task in tasks])}

    @outside_of_event_loops
    def note_trim(self, journal: str, number: int) -> int:
        """Note that the journal is about to be trimmed. Return the number of the trim: `number`, or a greater one."""
        later = "CASE WHEN trims >= %s THEN trims + 1 ELSE %s END"
        sql = f"UPDATE {JOURNALS} SET trims = {later} WHERE journal = %s RETURNING trims"  # noqa: S608
        self.id_for(journal)
        with own_connection() as connection, table_of(connection).turn():
            ((noted,),) = table_of(connection).run(sql, (number, number, journal))
        return int(noted)

    @outside_of_event_loops
    def catch_up(self, journal: str, number: int) -> bool:
        """Whether the database knew only of an earlier trim: it is an older copy. From now on it knows of this one."""
        sql = f"UPDATE {JOURNALS} SET trims = %s WHERE journal = %s AND trims < %s RETURNING trims"  # noqa: S608
        with own_connection() as connection, table_of(connection).turn():
            return bool(table_of(connection).run(sql, (number, journal, number)))
