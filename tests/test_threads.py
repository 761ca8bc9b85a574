"""notifier_project/threads.py: what waits for a thread of the API. In this process, with views of the tests' own."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from django.db import Error as DatabaseError
from django.http import HttpRequest

from notifier_project import api, threads
from notifier_project.threads import THREADS, Threads, TooLateError
from tests.support import selection

pytestmark = selection.once


class Body:
    """A large one."""


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What the calls wait for that keep the threads busy."""
    event = threading.Event()
    yield event
    event.set()


async def ask(pool: Threads, bodies: "list[weakref.ref[Body]]") -> str:
    """A request that needs a thread; what became of it."""
    body = Body()
    bodies.append(weakref.ref(body))
    try:
        await asyncio.wrap_future(pool.submit(lambda: body))
    except TooLateError as error:
        return str(error)
    return "done"


def test_call__that_is_given_up_is_not_kept(go: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the threads hang, nothing grows but a short queue; beyond that, requests are refused at once."""
    monkeypatch.setattr(threads, "ANSWER", 0.1)
    monkeypatch.setattr(threads, "MOST", 10)
    bodies: list[weakref.ref[Body]] = []

    async def meanwhile() -> None:
        pool = Threads()
        hanging = [asyncio.wrap_future(pool.submit(go.wait)) for _ in range(THREADS)]
        said = await asyncio.gather(*(ask(pool, bodies) for _ in range(6)))
        assert said == ["It took longer than 0.1 seconds; nothing was done"] * 6
        gone = asyncio.ensure_future(ask(pool, bodies))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        del gone
        await asyncio.wait(hanging)
        gc.collect()
        assert [body() for body in bodies] == [None] * 7
        refused = [await ask(pool, bodies) for _ in range(5)][-1]
        assert refused == "Too many requests are waiting; nothing was done"
        go.set()
        monkeypatch.setattr(threads, "ANSWER", 60)
        while await ask(pool, bodies) != "done":
            await asyncio.sleep(0.01)
        assert [str(call.exception()) for call in hanging] == [
            "It took longer than 0.1 seconds; what you asked for may be done all the same"
        ] * 4
        pool.shutdown()

    asyncio.run(meanwhile())


def test_complaints__one_line_for_many_requests(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_complaints", api._Complaints())
    for _ in range(2000):
        api._unavailable(HttpRequest(), DatabaseError("away"))
    assert len(caplog.records) == 1
    api._complaints.silent_until = 0.0
    api._unavailable(HttpRequest(), DatabaseError("still away"))
    assert caplog.messages[1].endswith("still away (and 1999 others since the last such line)")
