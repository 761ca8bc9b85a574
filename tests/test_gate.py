"""What every request passes: tokens, proxies, limits. Over real HTTP, with views of the tests' own."""

import os
import re
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from durable_queue.conf import cluster_conf
from durable_queue.models import Figure
from durable_queue.store.databases import table_of
from durable_queue.store.figures import backlog, count_due, publish_backlog
from durable_queue.store.leases import alone_queue
from durable_queue.store.rows import QUEUE_TABLE
from durable_queue.upkeep import upkeep
from durable_queue.upkeep.life import Life
from tests.support import selection
from tests.support.environment import DATABASE
from tests.support.gate import Gate, detail, gate
from tests.support.installations import execute
from tests.support.processes import manage, queue_workers, wait_until
from tests.support.raw_http import Connection, Request

pytestmark = selection.slow_on_postgresql

TOKENS = "alice a1 write\nbob b2 read\ncarol c3 manage\ndave d4 write,read,manage\n"
TASK = "/tasks/0123"
EVIL: dict[str, Any] = {"X_Forwarded_For": "203.0.113.9", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example"}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(TOKENS)
    return path


# What needs what.


@selection.once
def test_tokens__what_each_is_good_for(installation: dict[str, str], tokens: Path, tmp_path: Path) -> None:
    write, read, manage_ = {"a1", "d4"}, {"b2", "d4"}, {"c3", "d4"}
    needs = [
        ("POST", "/send-notification/a", write),
        ("POST", "/basic/send-notification/a", write),
        ("POST", "/tasks", write),
        ("POST", "/tasks/bulk", write),
        ("GET", "/tasks", read),
        ("GET", TASK, read),
        ("POST", f"{TASK}/cancel", manage_),
        ("POST", f"{TASK}/retry", manage_),
        ("POST", f"{TASK}/run-now", manage_),
        ("DELETE", TASK, manage_),
    ]
    with gate(installation, tmp_path, NOTIFIER_TOKENS_FILE=str(tokens)) as web:
        for method, target, allowed in needs:
            for token in ("a1", "b2", "c3", "d4"):
                answer = web.ask(method, target, Authorization=f"Bearer {token}")
                if token in allowed:
                    assert answer.status == 200, (method, target, token)
                else:
                    assert answer.status == 403, (method, target, token)
                    challenge = answer.headers["www-authenticate"]
                    assert re.fullmatch(r'Bearer realm="notifier", error="insufficient_scope", scope="\w+"', challenge)
                    assert "scope" in detail(answer)
            answer = web.ask(method, target)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="notifier"')
            assert detail(answer) == "Not authenticated"
        assert web.told(Authorization="bearer  d4")["actor"] == "dave"
        for target in ("/openapi.json", "/admin/login/", "/static/admin/css/base.css"):
            assert web.ask("GET", target).status == 200
        assert web.ask("GET", "/tasks/no/such/path").status == 401
        assert web.ask("GET", "/tasks/no/such/path", Authorization="Bearer a1").status == 404
        assert web.ask("PUT", "/tasks", Authorization="Bearer a1").status == 405


@selection.once
def test_tokens__that_are_none(installation: dict[str, str], tokens: Path, tmp_path: Path) -> None:
    with gate(installation, tmp_path, migrated=False, NOTIFIER_TOKENS_FILE=str(tokens)) as web, Connection(web.port) as client:
        for sent in (
            "Bearer a",
            "Bearer a1a1",
            "Bearer A1",
            "Bearer \xe4",
            "Bearer a1,",
            "Bearer",
            "Basic YTE6",
            "a1",
            "Bearer a1 a1",
        ):
            client.send(f"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {sent}\r\n\r\n".encode("latin-1"))
            answer = client.receive()
            assert answer.status == 401, sent
            assert answer.headers["www-authenticate"].startswith('Bearer realm="notifier"')
            is_known_to_be_none = 'error="invalid_token"' in answer.headers["www-authenticate"]
            assert is_known_to_be_none == (detail(answer) == "Invalid token")
        twice = {"Authorization": "Bearer a1\r\nAuthorization: Bearer d4"}
        assert client.ask(Request(target="/tasks", headers=twice)).status == 401


@selection.once
def test_tokens__without_the_file(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path) as web:
        for method, target in (
            ("POST", "/send-notification/a"),
            ("POST", "/tasks"),
            ("POST", "/tasks/bulk"),
            ("GET", TASK),
        ):
            assert web.ask(method, target).status == 200
        assert web.told()["actor"] == "anonymous"
        for method, target in (
            ("GET", "/tasks"),
            ("DELETE", TASK),
            ("POST", f"{TASK}/cancel"),
            ("POST", f"{TASK}/retry"),
            ("POST", f"{TASK}/run-now"),
        ):
            answer = web.ask(method, target)
            assert answer.status == 403
            assert "NOTIFIER_TOKENS_FILE" in detail(answer)
        assert web.ask("DELETE", "/tasks").status == 405
        assert web.ask("GET", "/tasks/bulk").status == 405


@selection.once
def test_tokens__change_while_it_runs(installation: dict[str, str], tokens: Path, tmp_path: Path) -> None:
    def status(token: str) -> int:
        return web.ask("GET", TASK, Authorization=f"Bearer {token}").status

    with gate(installation, tmp_path, migrated=False, NOTIFIER_TOKENS_FILE=str(tokens)) as web:
        assert (status("b2"), status("new")) == (200, 401)
        tokens.write_text("bob new read\n")
        wait_until(lambda: (status("b2"), status("new")) == (401, 200))
        tokens.unlink()
        wait_until(lambda: "the old ones hold" in web.output.read_text())
        assert status("new") == 200
        tokens.touch(mode=0o600)
        tokens.write_text("bob s3cret-of-bob read write\n")
        wait_until(lambda: "line 1" in web.output.read_text())
        assert status("new") == 200
        tokens.write_text("bob s3cret-of-bob read\n")
        wait_until(lambda: status("s3cret-of-bob") == 200)
        said = web.output.read_text()
    assert "s3cret" not in said
    assert said.count("ERROR") == 2


@selection.slow
@selection.once
def test_tokens__unreadable_at_the_start(installation: dict[str, str], tokens: Path, tmp_path: Path) -> None:
    """The service says why it does not start. A web process that is started again meanwhile goes on with all the rest."""
    tokens.chmod(0o644)
    with pytest.raises(AssertionError, match=r"notifier.E001.*chmod 600") as error:
        manage("check", env={**installation, "NOTIFIER_TOKENS_FILE": str(tokens)})
    assert "a1" not in str(error.value)
    with gate(installation, tmp_path, NOTIFIER_TOKENS_FILE=str(tokens)) as web:
        answer = web.ask("POST", "/send-notification/a", Authorization="Bearer a1")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert web.ask("GET", "/admin/login/").status == 200
        tokens.chmod(0o600)
        wait_until(lambda: web.ask("POST", "/send-notification/a", Authorization="Bearer a1").status == 200)


# Proxies.


@selection.once
def test_proxy__trusted(installation: dict[str, str], tmp_path: Path) -> None:
    hosts: dict[str, Any] = {"NOTIFIER_ALLOWED_HOSTS": "notify.example,127.0.0.1"}
    with gate(installation, tmp_path, migrated=False, NOTIFIER_TRUSTED_PROXIES="127.0.0.1,10.0.0.0/8", **hosts) as web:
        for target in ("/tasks/tell", "/tell"):
            told = web.told(
                target,
                X_Forwarded_For="1.1.1.1, 203.0.113.9, 10.0.0.7",
                X_Forwarded_Proto="https",
                X_Forwarded_Host="evil.example, notify.example",
            )
            assert (told["client"], told["scheme"], told["host"]) == ("203.0.113.9", "https", "notify.example")
            assert told["forwarded"] == []
            assert web.ask("GET", target, X_Forwarded_Host="evil.example").status == 400
            odd = web.told(target, X_Forwarded_For="<unknown>", X_Forwarded_Proto="ftp", X_Forwarded_Host=" ,")
            assert (odd["client"], odd["scheme"], odd["host"]) == ("127.0.0.1", "http", "127.0.0.1")
        redirect = web.ask("POST", "/send-notification/a/", b"", X_Forwarded_Proto="https", X_Forwarded_Host="notify.example")
        assert redirect.headers["location"] == "https://notify.example/send-notification/a"


@selection.once
def test_proxy__stranger(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path, NOTIFIER_TRUSTED_PROXIES="10.0.0.2", NOTIFIER_HTTPS="true") as web:
        for target in ("/tasks/tell", "/tell"):
            told = web.told(target, **EVIL)
            assert (told["client"], told["scheme"], told["host"]) == ("127.0.0.1", "http", "127.0.0.1")
            assert told["forwarded"] == []
        assert "https" not in web.ask("POST", "/send-notification/a/", b"", **EVIL).headers["location"]
        assert web.ask("GET", "/admin/login/", b"", **EVIL).status == 200


def log_in(web: Gate, *, token: bool = True, **headers: str) -> tuple[int, str]:
    """The answer to the admin's login form, as a browser behind a proxy sends it."""
    page = web.ask("GET", "/admin/login/", b"", **headers).headers
    cookie = page["set-cookie"].partition(";")[0]
    body = f"username=x&password=y&csrfmiddlewaretoken={cookie.partition('=')[2] if token else ''}".encode()
    form = {"Cookie": cookie, "Content_Type": "application/x-www-form-urlencoded", **headers}
    answer = web.ask("POST", "/admin/login/", body, **form)
    return answer.status, answer.body.decode()


@selection.once
def test_forms__behind_a_proxy(installation: dict[str, str], tmp_path: Path) -> None:
    origin: dict[str, Any] = {"Origin": "https://notify.example"}
    with gate(installation, tmp_path) as web:
        status, text = log_in(web, **origin)
        assert status == 403
        assert "NOTIFIER_TRUSTED_ORIGINS=https://notify.example\n" in text
        assert "DEBUG" not in text
        status, text = log_in(web, token=False)
        assert (status, "NOTIFIER_TRUSTED_ORIGINS" in text) == (403, True)
    with gate(installation, tmp_path, NOTIFIER_TRUSTED_ORIGINS="https://notify.example") as web:
        assert log_in(web, **origin)[0] == 200
        assert log_in(web, Origin="https://evil.example")[0] == 403
    proxy: dict[str, Any] = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "notify.example"}
    hosts: dict[str, Any] = {"NOTIFIER_ALLOWED_HOSTS": "notify.example", "NOTIFIER_HTTPS": "true"}
    with gate(installation, tmp_path, **hosts) as web:
        assert log_in(web, **origin, **proxy)[0] == 200, "one on this machine needs no more than NOTIFIER_HTTPS"
    with gate(installation, tmp_path, NOTIFIER_TRUSTED_PROXIES="10.0.0.2", **hosts) as web:
        assert log_in(web, **origin, **{**proxy, "Host": "notify.example"})[0] == 403


@selection.once
@pytest.mark.parametrize(
    ("given", "warns"),
    [
        ({"HOST": "0.0.0.0"}, True),  # noqa: S104
        ({"HOST": "127.0.0.1"}, False),
        ({"HOST": "0.0.0.0", "NOTIFIER_TRUSTED_PROXIES": "10.0.0.2"}, False),  # noqa: S104
        ({"HOST": "0.0.0.0", "NOTIFIER_HTTPS": "false"}, False),  # noqa: S104
    ],
    ids=str,
)
def test_check__proxy_elsewhere(given: dict[str, str], warns: bool, tmp_path: Path) -> None:
    env = {"NOTIFIER_DATA_DIR": str(tmp_path), "NOTIFIER_LOG_FILE": str(tmp_path / "log.txt"), "NOTIFIER_HTTPS": "true"}
    said = manage("shell", "-c", "from django.core.checks import run_checks as r; print(r())", env=env | given)
    assert ("notifier.W001" in said and "NOTIFIER_TRUSTED_PROXIES" in said) == warns


# Limits.


def test_backlog__beyond_it(installation: dict[str, str], tmp_path: Path) -> None:
    """Tasks that wait for a worker count, and those that are due later don't. What does not queue is answered all the same."""
    go, limit = tmp_path / "go-on", {"NOTIFIER_MAX_BACKLOG": "5"}
    one_at_a_time = {"NOTIFIER_QUEUE_WORKERS": "1", "NOTIFIER_QUEUE_THREADS": "1"}
    published = "SELECT value FROM durable_queue_figure WHERE name = 'backlog of notifier'"

    def post() -> int:
        return web.ask("POST", "/send-notification/a").status

    with gate(installation, tmp_path, NOTIFIER_MAX_BACKLOG="5") as web:
        later = "INSERT INTO django_q_ormq (key, payload, lock) VALUES ('notifier', 'x', '2100-01-01 00:00:00')"
        for _ in range(9):
            execute(installation, later)
        with queue_workers(env=installation | limit | one_at_a_time, output=tmp_path / "output"):
            wait_until(lambda: execute(installation, published) == [(0,)], timeout=60, what="upkeep publishes")
            assert post() == 200
            task = f"async_task('tests.support.fault_tasks.write_when_told', {str(go)!r})"
            manage("shell", "-c", f"from django_q.tasks import async_task\nfor _ in range(9): {task}", env=installation)
            wait_until(lambda: post() == 503, timeout=60, what="it is noticed")
            for method, target in (("POST", "/basic/send-notification/a"), ("POST", "/tasks"), ("POST", "/tasks/bulk")):
                answer = web.ask(method, target)
                assert (answer.status, answer.headers["retry-after"]) == (503, "5")
                assert "waiting" in detail(answer)
            assert web.ask("GET", TASK).status == 200
            go.touch()
            wait_until(lambda: post() == 200, what="there is room again")
        execute(installation, "UPDATE durable_queue_figure SET value = 9")
        wait_until(lambda: post() == 200, what="nobody counts any more: it accepts")
    assert web.output.read_text() == ""


@pytest.mark.django_db(transaction=True)
def test_backlog__is_counted_in_the_index_alone() -> None:
    """A million rows cost no more than the limit."""
    table = table_of(connection)
    table.insert("notifier", ["x"] * 20)
    table.insert("elsewhere", ["x"] * 20)
    table.insert(alone_queue("notifier"), ["x"] * 3)
    assert [count_due(table, "notifier", most) for most in (1, 10, 21, 1000)] == [1, 10, 21, 23]
    due = f"SELECT 1 FROM {QUEUE_TABLE} WHERE key = 'notifier' AND lock <= '2026-01-01' LIMIT 10"  # noqa: S608
    with connection.cursor() as cursor:
        if DATABASE == "postgresql":
            cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"EXPLAIN {'QUERY PLAN ' if DATABASE == 'sqlite' else ''}{due}")
        assert "cluster_claim" in str(cursor.fetchall())
        if DATABASE == "postgresql":
            cursor.execute("RESET enable_seqscan")


@pytest.mark.django_db(transaction=True)
def test_backlog__is_known_while_it_is_fresh() -> None:
    assert backlog(fresh=3) is None
    for count in (7, 3):
        publish_backlog("default", "notifier", count)
        assert backlog(fresh=30) == count
    assert backlog(fresh=30, queue="elsewhere") is None
    Figure.objects.update(at=timezone.now() - timedelta(seconds=40))
    assert backlog(fresh=30) is None


@pytest.mark.parametrize("most", [None, 5])
def test_backlog__is_counted_only_where_it_is_limited(most: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "cluster_conf", replace(cluster_conf, max_backlog=most))
    lanes = upkeep.Upkeep(str(uuid.uuid4()), 0, Life()).lanes
    assert ("figures" in [lane.name for lane in lanes]) == (most is not None)


@selection.slow
@selection.once
def test_disk__nearly_full(installation: dict[str, str], tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize // 1_000_000
    with gate(installation, tmp_path, NOTIFIER_MIN_FREE_DISK=str(free + 1_000_000)) as web:
        wait_until(lambda: web.ask("POST", "/send-notification/a").status == 503)
        answer = web.ask("POST", "/tasks")
        assert (answer.status, answer.headers["retry-after"]) == (503, "60")
        assert "disk" in detail(answer)
        assert web.ask("GET", TASK).status == 200
    with gate(installation, tmp_path, NOTIFIER_MIN_FREE_DISK="1") as web:
        assert web.ask("POST", "/send-notification/a").status == 200
        # The thread has looked by then.
        assert [web.ask("POST", "/send-notification/a").status for _ in range(20)] == [200] * 20


@selection.once
def test_rate__of_an_address_and_of_a_token(installation: dict[str, str], tokens: Path, tmp_path: Path) -> None:
    rate: dict[str, Any] = {"NOTIFIER_RATE_LIMIT": "10/h", "NOTIFIER_WEB_WORKERS": "2"}

    def answers(count: int, target: str = TASK, method: str = "GET", **headers: str) -> list[int]:
        return [web.ask(method, target, b"", **headers).status for _ in range(count)]

    with gate(installation, tmp_path, **rate) as web:
        assert answers(7) == [200] * 5 + [429] * 2
        refused = web.ask("POST", "/send-notification/a")
        assert (refused.status, detail(refused)) == (429, "Too Many Requests")
        assert 0 < int(refused.headers["retry-after"]) <= 720
        assert answers(7, "/send-notification/a", "POST", X_Forwarded_For="203.0.113.9") == [200] * 5 + [429] * 2
        assert web.ask("GET", "/admin/login/").status == 200
    with gate(installation, tmp_path, NOTIFIER_TOKENS_FILE=str(tokens), **rate) as web:
        assert answers(6, Authorization="Bearer b2") == [200] * 5 + [429]
        assert answers(6, Authorization="Bearer d4") == [200] * 5 + [429]
        assert answers(6, Authorization="Bearer guess") == [401] * 5 + [429]
