"""Requests with idempotency keys under fire: `scripts/chaos idempotency`."""

import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.support import environment
from tests.support.chaos_over_http import installation
from tests.support.installations import execute, queue_table
from tests.support.processes import free_port, is_listening, manage, running, wait_until
from tests.support.raw_http import Answer, Connection, Request, ask

AT_ONCE = 50  # posts with one key
CLIENTS = 4  # that have web processes killed
PATIENCE = 30.0  # seconds until a client must have its answer


def idempotency(quick: bool) -> str:
    """Fifty posts at once with one key; and web processes that are killed between a commit and its answer."""
    rounds, port, output = (20 if quick else 1000), free_port(), environment.FOLDER / "idempotency.out"
    command = [sys.executable, "-m", "tests.support.dying_web", str(port)]
    with installation("idempotency") as (env, _):
        manage("migrate", "--verbosity=0", env=env)
        with running(command, env=env, output=output):
            wait_until(lambda: is_listening(port), what="the web listens")
            at_once = [_post_at_once(port, f"at once {number}") for number in range(rounds)]
            with ThreadPoolExecutor(CLIENTS) as clients:
                told = dict(clients.map(lambda number: _post_and_kill(port, f"killed {number}"), range(rounds)))
        ids = [*at_once, *told]
        with queue_table(env) as table:
            assert table.accepted() == len(set(ids)) == 2 * rounds, (table.accepted(), len(set(ids)), rounds)
        kept = {task_id for (task_id,) in execute(env, "SELECT task_ids FROM durable_queue_idempotencykey")}
        assert kept == set(ids)
    repeats = sum(told.values())
    return (
        f"{rounds} times {AT_ONCE} posts at once with one key: one task each; {rounds} times a web process killed before it "
        f"answered, {repeats} repeats: one task each"
    )


def _post_at_once(port: int, key: str) -> str:
    """Post many times at once, each on a connection of its own; return the id that all are told."""
    request = _request(key).encode()
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(port, timeout=PATIENCE)) for _ in range(AT_ONCE)]
        for connection in connections:
            connection.send(request)
        answers = [connection.receive() for connection in connections]
    assert {answer.status for answer in answers} == {200}
    (task_id,) = {answer.headers["task-id"] for answer in answers}
    return task_id


def _post_and_kill(port: int, key: str) -> tuple[str, int]:
    """Post, and have the web process killed before it answers; repeat until it does: the id, and the number of repeats."""
    _answer(lambda: ask(port, _request(key, X_Die="1")))
    deadline, repeats = time.monotonic() + PATIENCE, 0
    while time.monotonic() < deadline:
        repeats += 1
        answer = _answer(lambda: ask(port, _request(key)))
        if answer and answer.status == 200:
            return answer.headers["task-id"], repeats
    raise AssertionError(f"no answer within {PATIENCE} s")


def _answer(post: Callable[[], Answer]) -> Answer | None:
    """The answer; None if the web process was killed, by this request or another one."""
    try:
        return post()
    except (OSError, ValueError, IndexError):  # an answer may be cut off anywhere
        return None


def _request(key: str, **headers: str) -> Request:
    named: Mapping[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(target="/send-notification/alice", headers={"Idempotency-Key": key, **named})
