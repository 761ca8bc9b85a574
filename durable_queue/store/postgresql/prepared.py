"""Statements that PostgreSQL keeps prepared, run by libpq itself, each in a transaction of its own.

Django's cursors have the server plan each statement again, and psycopg's cursors wait for it in many steps. docs/tried.md
has what that costs an idle system.
"""

import select
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper

# Numbers of libpq's (https://www.postgresql.org/docs/current/libpq-exec.html): PGRES_COMMAND_OK, PGRES_TUPLES_OK,
# PGRES_PIPELINE_SYNC, PQTRANS_ACTIVE, PG_DIAG_SQLSTATE. psycopg names them, but is there only where it is used.
_COMMAND_OK, _TUPLES_OK, _SYNC, _ACTIVE, _SQLSTATE = 1, 2, 10, 1, ord("C")
# What the server says of a statement that it does not know any more, and of one whose table has changed since
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_TO_PREPARE_AGAIN = b"26000", b"0A000"


class Statement(NamedTuple):
    """A statement that gives back rows, and the name that it is prepared under, once for each connection."""

    name: str
    sql: str


_Step = tuple[Statement, list[bytes | None]]
_prepared: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # the names that each of psycopg's connections knows


def run(
    connection: BaseDatabaseWrapper,
    statement: Statement,
    values: Sequence[object],
    *,
    before: Sequence[tuple[Statement, Sequence[object]]] = (),
    meanwhile: Callable[[], None] | None = None,
) -> list[tuple[bytes, ...]]:
    """Run a statement; return its rows' columns as text.

    `before`: others to run first, in the same round trip; they may fail, and their rows are dropped.
    `meanwhile`: called once the server has been asked, before it has answered; must not raise. Raises django.db.Error.
    """
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    psycopg: Any = connection.Database  # type: ignore[attr-defined]
    with connection.wrap_database_errors:
        steps = [(step, [_text(value) for value in given]) for step, given in (*before, (statement, values))]
        if any(b"\0" in text for _, texts in steps for text in texts if text):  # libpq would take it for the end
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        answers = _ask(connection, steps, meanwhile)
        failed = [(step, answer) for (step, _), answer in zip(steps, answers, strict=True) if answer.status != _TUPLES_OK]
        forgotten = [step for step, answer in failed if _forget(connection, step, answer)]
        if statement in forgotten:
            answers = _ask(connection, steps, meanwhile)
        answer = answers[-1]
        if answer.status != _TUPLES_OK:
            raise psycopg.errors.error_from_result(answer)
    get, columns = answer.get_value, range(answer.nfields)
    return [tuple([get(row, column) for column in columns]) for row in range(answer.ntuples)]


def _text(value: object) -> bytes | None:
    return None if value is None else str(value).encode()


def _ask(connection: BaseDatabaseWrapper, steps: Sequence[_Step], meanwhile: Callable[[], None] | None) -> list[Any]:
    """Send all, then wait for all; return what each came to. https://www.postgresql.org/docs/current/libpq-pipeline-mode.html."""
    driver, psycopg = connection.connection, connection.Database  # type: ignore[attr-defined]
    libpq, prepared = driver.pgconn, _prepared.setdefault(driver, set())
    if libpq.transaction_status == _ACTIVE or libpq.pipeline_status:
        raise psycopg.OperationalError("The connection is busy with another statement, whose rows are still to be read.")
    try:
        libpq.enter_pipeline_mode()
        for statement, texts in steps:
            if statement.name not in prepared:
                libpq.send_prepare(statement.name.encode(), statement.sql.encode())
            libpq.send_query_prepared(statement.name.encode(), texts)
            libpq.pipeline_sync()  # the end of its transaction
        libpq.flush()
        if meanwhile:
            meanwhile()
        answers = []
        for statement, _ in steps:
            results = _results_of_one(libpq, psycopg)
            if results[0].status in (_COMMAND_OK, _TUPLES_OK):
                prepared.add(statement.name)
            errors = [result for result in results if result.status not in (_COMMAND_OK, _TUPLES_OK)]
            answers.append(errors[0] if errors else results[-1])
        libpq.exit_pipeline_mode()
    except BaseException:
        # A signal handler may raise, and the next caller would get these answers. The driver's first: a pool keeps it open.
        driver.close()
        connection.close()
        raise
    return answers


def _results_of_one(libpq: Any, psycopg: Any) -> list[Any]:
    """All results of one transaction; one more than its statements when its COMMIT failed."""
    results, ended = [], False
    while (result := _next_result(libpq)) is None or result.status != _SYNC:
        if result is not None:
            results.append(result)
        elif ended:  # twice nothing
            raise psycopg.OperationalError(libpq.get_error_message())  # the connection is lost
        ended = result is None
    return results


def _forget(connection: BaseDatabaseWrapper, statement: Statement, answer: Any) -> bool:
    """Whether the statement has to be prepared again; if so, forget that it was."""
    if answer.error_field(_SQLSTATE) not in _TO_PREPARE_AGAIN:
        return False
    connection.connection.pgconn.exec_(f"DEALLOCATE {statement.name}".encode())
    _prepared[connection.connection].discard(statement.name)
    return True


def _next_result(libpq: Any) -> Any:
    """As `libpq.get_result`, which would wait with the interpreter's lock held, and deaf for signals."""
    while libpq.is_busy():
        poll = select.poll()
        poll.register(libpq.socket, select.POLLIN | select.POLLOUT if libpq.flush() else select.POLLIN)
        poll.poll()
        libpq.consume_input()
    return libpq.get_result()
