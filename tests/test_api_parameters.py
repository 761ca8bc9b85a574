"""notifications/api/parameters.py: what a query asks for is read, or refused, as FastAPI would do it."""

import asyncio
import json
from typing import Annotated
from urllib.parse import quote

import httpx
import pytest
from django.test import RequestFactory
from fastapi import FastAPI, Query

from durable_queue import status
from durable_queue.states import State
from notifications.api import parameters, reading
from notifications.api.parameters import Query as Ours
from notifications.api.parameters import preferred_wait
from tests.support import selection

pytestmark = selection.once

MODEL = FastAPI()


@MODEL.get("/tasks")
def _list_tasks(
    status: State | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    wait: Annotated[float, Query(ge=0, le=30)] = 0,
) -> tuple[str, int, float]:
    return str(status), limit, wait


def of_model(query: str) -> httpx.Response:
    """FastAPI's answer."""

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(MODEL), base_url="http://model") as client:
            return await client.get(f"/tasks?{query}")

    return asyncio.run(ask())


NUMBERS = [
    "1",
    "30",
    "100",
    "0",
    "-1",
    "101",
    "x",
    "",
    "1.5",
    "+5",
    " 5",
    "5 ",
    "1_0",
    "nan",
    "inf",
    "0x1",
    "٣",
    "9" * 30,
    "\0",
]


@pytest.mark.parametrize(
    "query",
    [
        "",
        *(f"status={text}" for text in ("queued", "cancelled", "QUEUED", "x", "%00", "x&status=running", "running&status=x")),
        *(f"limit={quote(text)}" for text in NUMBERS),
        *(f"wait={quote(text)}" for text in NUMBERS),
        "wait=x&limit=0&status=y",
        "unknown=1&LIMIT=0",
    ],
)
def test_query__as_fastapi_reads_it(query: str) -> None:
    answer = of_model(query)
    ours = Ours(RequestFactory().get("/tasks", QUERY_STRING=query))
    read = (
        str(ours.choice("status", State)),
        ours.integer("limit", 50, least=1, most=100),
        ours.number("wait", 0.0, least=0, most=30),
    )
    if answer.status_code == 200:
        assert not ours.problems
        assert [*read] == answer.json()
    else:
        assert json.loads(json.dumps({"detail": ours.problems})) == answer.json()


def test_query__a_very_long_number() -> None:
    query = Ours(RequestFactory().get("/tasks", {"limit": "9" * 100_000}))
    query.integer("limit", 50, least=1, most=100)
    assert [problem["type"] for problem in query.problems] == ["int_parsing"]


def test_query__refuses_what_is_not_there() -> None:
    query = Ours(RequestFactory().get("/tasks"))
    query.refuse("cursor", "cursor", "No")
    assert query.problems == [{"type": "cursor", "loc": ["query", "cursor"], "msg": "No", "input": None}]


def test_list__takes_an_odd_row_for_no_bad_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "newest", lambda **_: int("an odd row"))
    with pytest.raises(ValueError, match="an odd row"):
        reading.list_tasks(RequestFactory().get("/tasks?cursor=x"))


def test_query__an_empty_choice_is_none() -> None:
    query = Ours(RequestFactory().get("/tasks?status="))
    assert (query.choice("status", State), query.problems) == (None, [])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10),
        ("Wait = 10", 10),
        ('wait="10"', 10),
        ("respond-async, wait=10", 10),
        ("respond-async,wait=10;strict", 10),
        ('note="wait=3, \\"wait=4", wait=5', 5),
        ("wait=1, wait=2", 1),
        ("wait=99999999999999999999", 999_999_999),
        ("wait=0", 0),
        ("", None),
        ("wait", None),
        ("wait=", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=٣", None),
        ("waiting=3", None),
        ("respond-async; wait=3", None),  # a parameter of another preference
        (',,;=,"', None),
    ],
)
def test_preferred_wait(header: str, seconds: int | None) -> None:
    assert preferred_wait(header) == seconds


def test_preferred_wait__of_a_hostile_header() -> None:
    assert preferred_wait('a="' * 60_000) is None
    assert preferred_wait(";" * 100_000 + '"') is None


def test_preference__many_blanks() -> None:
    """Each of them is looked at once: from each on, it would take minutes."""
    assert parameters._PREFERENCE.findall("a," + " \t" * 100_000) == [("a", "", "")]


def test_preferred_wait__is_read_from_the_beginning_of_the_header() -> None:
    assert preferred_wait("a," * 400 + "wait=5") == 5
    assert preferred_wait("a," * 10_000 + "wait=5") is None
