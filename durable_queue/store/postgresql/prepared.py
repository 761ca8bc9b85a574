"""Prepared statements: PostgreSQL keeps them, and libpq itself runs them, each in a transaction of its own.

With Django's cursors the server plans each statement again, and psycopg's cursors wait for it in many steps. docs/tried.md
tells what that costs an idle system.
"""

import math
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper

from durable_queue.store.answers import NoAnswerError

# libpq's numbers (https://www.postgresql.org/docs/current/libpq-exec.html): PGRES_COMMAND_OK, PGRES_TUPLES_OK,
# PGRES_PIPELINE_SYNC, PQTRANS_ACTIVE, PG_DIAG_SQLSTATE. psycopg has names for them, but is imported only where it is used.
_COMMAND_OK, _TUPLES_OK, _SYNC, _ACTIVE, _SQLSTATE = 1, 2, 10, 1, ord("C")
# The server's error codes for a statement that it no longer knows, and for one whose table has changed since
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_TO_PREPARE_AGAIN = b"26000", b"0A000"


class _Limit(threading.local):
    seconds = 0.0
    until = math.inf  # when (monotonic) this thread stops waiting for an answer


_limit = _Limit()


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Have this thread wait for answers until then. Afterwards `run` raises NoAnswerError.

    `statement_timeout` does not end a COMMIT that waits for a standby, and to cancel it would report it as done
    (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION).
    """
    _limit.seconds, _limit.until = seconds, time.monotonic() + seconds
    try:
        yield
    finally:
        _limit.until = math.inf


class PendingAnswers:
    """Statements in a pipeline that are not answered yet. They keep psycopg's connection; Django opens another one.

    Else what comes next on this thread, a look at a task perhaps, would find a connection on which nothing can be asked.
    """

    def __init__(self, connection: BaseDatabaseWrapper, statements: int) -> None:
        self._connection, self._driver = connection, connection.connection
        self._statements = statements
        connection.connection = None

    def is_answered(self) -> bool:
        """See `Pending`. The connection is closed then: nobody has read which statements it has prepared."""
        driver, wrapper = self._driver, self._connection
        try:
            with answers_within(0.0):
                while self._statements:
                    _results_of_one(driver.pgconn, wrapper.Database)  # type: ignore[attr-defined]
                    self._statements -= 1
        except TimeoutError:
            return False
        except Exception:  # noqa: S110 - the connection is lost
            pass
        driver.close()
        if pool := getattr(wrapper, "pool", None):  # it counts those that it gave away
            driver._pool = pool
            pool.putconn(driver)
        return True


class Statement(NamedTuple):
    """A statement that returns rows, and the name under which each connection prepares it once."""

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
    """Run a statement; return its rows, each column as text. Raises django.db.Error.

    `before`: statements to run first, in the same round trip. They may fail, and their rows are dropped.
    `meanwhile`: a function to call once the statements are sent, before the server has answered. It must not raise.
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
    """Send all statements, then wait for all; return the last result or the error of each.

    https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
    """
    driver, psycopg = connection.connection, connection.Database  # type: ignore[attr-defined]
    libpq, prepared = driver.pgconn, _prepared.setdefault(driver, set())
    if libpq.transaction_status == _ACTIVE or libpq.pipeline_status:
        raise psycopg.OperationalError("The connection is busy with another statement, whose rows have not been read.")
    try:
        libpq.enter_pipeline_mode()
        for statement, texts in steps:
            if statement.name not in prepared:
                libpq.send_prepare(statement.name.encode(), statement.sql.encode())
            libpq.send_query_prepared(statement.name.encode(), texts)
            libpq.pipeline_sync()  # ends the statement's transaction
        libpq.flush()
        if meanwhile:
            meanwhile()
        answers: list[Any] = []
        for statement, _ in steps:
            try:
                results = _results_of_one(libpq, psycopg)
            except TimeoutError:
                raise NoAnswerError(_limit.seconds, PendingAnswers(connection, len(steps) - len(answers))) from None
            if results[0].status in (_COMMAND_OK, _TUPLES_OK):
                prepared.add(statement.name)
            errors = [result for result in results if result.status not in (_COMMAND_OK, _TUPLES_OK)]
            answers.append(errors[0] if errors else results[-1])
        libpq.exit_pipeline_mode()
    except NoAnswerError:
        raise  # what has not come yet may come
    except BaseException:
        # A signal handler may have raised. The next caller must not get these answers: close the connection. Close the
        # driver's first, since a pool would keep it open.
        driver.close()
        connection.close()
        raise
    return answers


def _results_of_one(libpq: Any, psycopg: Any) -> list[Any]:
    """All results of one transaction. If its COMMIT failed, there is one more than it has statements."""
    results, ended = [], False
    while (result := _next_result(libpq)) is None or result.status != _SYNC:
        if result is not None:
            results.append(result)
        elif ended:  # no result, twice in a row
            raise psycopg.OperationalError(libpq.get_error_message())  # the connection is lost
        ended = result is None
    return results


def _forget(connection: BaseDatabaseWrapper, statement: Statement, answer: Any) -> bool:
    """Whether the statement has to be prepared again. If so, forget that it was prepared."""
    if answer.error_field(_SQLSTATE) not in _TO_PREPARE_AGAIN:
        return False
    connection.connection.pgconn.exec_(f"DEALLOCATE {statement.name}".encode())
    _prepared[connection.connection].discard(statement.name)
    return True


def _next_result(libpq: Any) -> Any:
    """The same as `libpq.get_result`, which would wait with the interpreter's lock held, and deaf to signals."""
    while libpq.is_busy():
        poll = select.poll()
        poll.register(libpq.socket, select.POLLIN | select.POLLOUT if libpq.flush() else select.POLLIN)
        if not poll.poll(None if _limit.until == math.inf else max(0.0, 1000 * (_limit.until - time.monotonic()))):
            raise TimeoutError
        libpq.consume_input()
    return libpq.get_result()
