"""`/openapi.json`, `/docs`, `/redoc`: what FastAPI says of its two programs, ours says too; and the pages in a browser."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from fastapi import FastAPI
from playwright.sync_api import Page, sync_playwright

from notifications.openapi.document import document
from notifications.openapi.pages import POLICY
from notifier_project import asgi
from tests.support import selection
from tests.support.fastapi_programs import basic, query
from tests.support.installations import new_installation
from tests.support.processes import free_port, web
from tests.support.raw_http import Request, ask

PROGRAMS: dict[str, FastAPI] = {"query": query.app, "basic": basic.app}
PAGES = ["/openapi.json", "/docs", "/redoc"]
PATH = "/send-notification/{email}"

pytestmark = selection.once


@pytest.fixture(scope="module", params=["query", "basic"])
def root(request: pytest.FixtureRequest) -> str:
    """The program at the bare path."""
    return str(request.param)


@pytest.fixture(scope="module")
def port(root: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a web process of ours listens; it needs no database here."""
    folder, port = tmp_path_factory.mktemp(root), free_port()
    with (
        new_installation(folder) as env,
        web(env=env | {"NOTIFIER_ROOT": root}, port=port, output=folder / "output"),
    ):
        yield port


def described(ours: dict[str, Any], theirs: dict[str, Any], *, but: str = "") -> bool:
    """Whether an operation of ours says all that theirs says, `but` for one key; what is there besides: answers, headers."""
    rest = {key for key in theirs if key not in ("parameters", "responses", but)}
    answers = {
        status: {key: ours["responses"][status][key] for key in answer} for status, answer in theirs["responses"].items()
    }
    return (
        ours.keys() == theirs.keys()
        and {key: ours[key] for key in rest} == {key: theirs[key] for key in rest}
        and [parameter for parameter in ours["parameters"] if "$ref" not in parameter] == theirs["parameters"]
        and answers == theirs["responses"]
    )


def test_schema__holds_what_fastapi_generates(port: int, root: str) -> None:
    ours = json.loads(ask(port, Request(target="/openapi.json", method="GET")).body)
    theirs, replacing = PROGRAMS[root].openapi(), basic.app.openapi()
    assert described(ours["paths"][PATH]["post"], theirs["paths"][PATH]["post"])
    assert described(ours["paths"][f"/basic{PATH}"]["post"], replacing["paths"][PATH]["post"], but="operationId")
    assert theirs["components"].keys() == {"schemas"}
    assert theirs["components"]["schemas"].items() <= ours["components"]["schemas"].items()
    assert ours["openapi"] == theirs["openapi"]


def test_schema__says_how_it_differs_from_fastapi() -> None:
    ours, theirs = document("query")["paths"][PATH]["post"], query.app.openapi()["paths"][PATH]["post"]
    assert not described(ours | {"summary": "Another"}, theirs)
    assert not described(ours | {"parameters": ours["parameters"][1:]}, theirs)
    assert not described(ours | {"responses": ours["responses"] | {"200": ours["responses"]["422"]}}, theirs)


def test_schema__names_each_operation_once(root: str) -> None:
    operations = [operation["operationId"] for item in document(root)["paths"].values() for operation in item.values()]
    assert len(set(operations)) == len(operations)


def test_schema__references_lead_somewhere(root: str) -> None:
    whole = document(root)
    references: list[str] = []
    json.loads(json.dumps(whole), object_hook=lambda found: references.append(found["$ref"]) if "$ref" in found else None)
    for reference in set(references):
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in whole["components"][kind]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT"])
@pytest.mark.parametrize("target", [*PAGES, "/docs/", "/redoc//?a=b", "/docs/elsewhere", "/openapi"])
def test_pages__answer_as_fastapis_do(port: int, root: str, target: str, method: str) -> None:
    ours = ask(port, Request(target=target, method=method))

    async def ask_model() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(PROGRAMS[root]), base_url="http://127.0.0.1") as client:
            return await client.request(method, target)

    theirs = asyncio.run(ask_model())
    assert ours.status == theirs.status_code
    for name in ("content-type", "location"):
        assert ours.headers.get(name) == theirs.headers.get(name)
    assert set(ours.headers.get("allow", "").split(", ")) == set(theirs.headers.get("allow", "").split(", "))
    assert method != "HEAD" or ours.body == b""


def test_pages__load_nothing_from_elsewhere(port: int) -> None:
    for page, images in (("/docs", "'self' data:"), ("/redoc", "'self'")):
        policy = dict(part.strip().split(" ", 1) for part in policy_of(port, page).split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["img-src"] == images
        assert {policy[kind] for kind in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in POLICY


def policy_of(port: int, page: str) -> str:
    """The page's Content-Security-Policy."""
    return ask(port, Request(target=page, method="GET")).headers["content-security-policy"]


@pytest.mark.parametrize("target", [*PAGES, "/docs/swagger-ui-bundle.js"])
def test_pages__do_not_wait_for_the_admin(target: str) -> None:
    """The thread that serves the admin is at something else, and the page comes all the same."""
    begun, done, sent = threading.Event(), threading.Event(), []

    async def receive() -> Any:
        pytest.fail("no body is read")

    def work() -> bool:
        begun.set()
        return done.wait(20)

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        SyncToAsync.thread_sensitive_context.set(asgi.ONE_THREAD)
        busy = asyncio.ensure_future(sync_to_async(work)())
        scope = {"type": "http", "method": "GET", "path": target, "query_string": b"", "headers": [(b"host", b"localhost")]}
        try:
            await sync_to_async(begun.wait, thread_sensitive=False)(20)
            async with asyncio.timeout(20):
                await asgi.application(scope, receive, send)
        finally:
            done.set()
            assert await busy

    asyncio.run(run())
    assert sent[0]["status"] == 200
    assert len(sent[1]["body"]) > 400


@contextmanager
def browser(port: int, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """A tab, and what it complains of: messages in its console, failed requests, requests to other hosts."""
    complaints: list[str] = []
    chromium, url = selection.installed("chromium", "chromium"), f"http://127.0.0.1:{port}"

    def look(request: Any) -> None:
        if not request.url.startswith((url, "data:")):
            complaints.append(f"elsewhere: {request.url}")

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = running.new_page(base_url=url, **options)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        tab.on("request", look)
        tab.add_init_script("document.addEventListener('securitypolicyviolation', e => console.log(e.violatedDirective))")
        yield tab, complaints
        running.close()


on_one_root = pytest.mark.parametrize("root", ["query"], indirect=True)


@on_one_root
@pytest.mark.timeout(600)  # a browser may have to be installed first
def test_docs__in_a_browser(port: int, root: str) -> None:
    operations = [operation for item in document(root)["paths"].values() for operation in item.values()]
    with browser(port) as (tab, complaints):
        tab.goto("/docs")
        tab.locator(".opblock").first.wait_for()
        assert tab.locator(".opblock").count() == len(operations)
        for block in tab.locator(".opblock-summary-control").all():
            block.click()  # each draws icons, forms and examples of its own
        tab.locator(".opblock .opblock-body").nth(len(operations) - 1).wait_for()
        tab.get_by_text("Schemas").first.wait_for()
        first = tab.locator(".opblock").first
        first.get_by_role("button", name="Try it out").click()
        first.get_by_placeholder("email").fill("alice")
        first.get_by_role("button", name="Execute").click()
        first.locator(".live-responses-table").wait_for()
        assert "503" in first.locator(".live-responses-table tbody .response-col_status").first.inner_text()
    # The database has no tables: the post is answered 503, and the browser's console names it.
    assert [said for said in complaints if "503" not in said] == []


@on_one_root
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_redoc__on_a_phone(port: int, root: str, scheme: str) -> None:
    with browser(port, viewport={"width": 390, "height": 844}, color_scheme=scheme, java_script_enabled=True) as (
        tab,
        complaints,
    ):
        tab.goto("/redoc")
        style = partial(tab.evaluate, "(name => getComputedStyle(document.body)[name])")
        back, front = (sum(map(int, style(name)[4:-1].split(","))) for name in ("backgroundColor", "color"))
        assert (back > front) == (scheme == "light")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        for path in document(root)["paths"]:
            assert tab.get_by_text(path).count()
        for link in tab.locator("a[href^='#']").all():
            assert tab.locator(link.get_attribute("href") or "").count() == 1
    assert complaints == []


def test_redoc__escapes(tmp_path: Path) -> None:
    from notifications.openapi.reading import page  # noqa: PLC0415

    whole = document("query")
    assert b"<script>" not in page(whole | {"info": whole["info"] | {"description": "<script>"}})
