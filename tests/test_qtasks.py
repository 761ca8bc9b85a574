"""`manage.py qtasks`."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django_q.models import OrmQ

from durable_queue.management.commands import qtasks as command_of_tasks
from durable_queue.models import Cancellation, PausedQueue
from durable_queue.verbs import Came, cancel
from tests.support import environment, selection
from tests.support.admin_site import TRACEBACK, post, settle, take
from tests.support.full_disk import full
from tests.support.processes import PROJECT

pytestmark = pytest.mark.django_db


def qtasks(*words: str) -> tuple[int, str, str]:
    """Run the command here; return its exit code, what it printed, and what it said about errors."""
    out, errors, code = StringIO(), StringIO(), 0
    try:
        call_command("qtasks", *words, stdout=out, stderr=errors)
    except CommandError as error:
        code = error.returncode
        errors.write(str(error))
    except SystemExit as error:
        code = int(error.code or 0)
    return code, out.getvalue(), errors.getvalue()


def failed(*names: str) -> list[str]:
    """Tasks that have failed."""
    ids = [post(name) for name in names]
    settle(error=TRACEBACK)
    return ids


def test_verb__by_ids() -> None:
    waiting = post("alice")
    code, out, _ = qtasks("cancel", waiting, "--why", "a mistake")
    assert (code, out) == (0, f"{waiting} cancelled\n")
    request = Cancellation.objects.get()
    assert (request.by, request.why) == (subprocess.check_output(["id", "-un"], text=True).strip(), "a mistake")
    assert qtasks("retry", waiting)[1] == f"{waiting} queued again\n"
    assert qtasks("run-now", waiting)[1] == f"{waiting} was due already\n"
    take(1)
    assert qtasks("cancel", waiting)[:2] == (0, f"{waiting} is running, and was asked to stop\n")


@pytest.mark.parametrize("action", ["cancel", "retry", "run-now", "delete"])
def test_verb__an_unknown_id_says_what_to_do(action: str) -> None:
    code, out, _ = qtasks(action, "0" * 32, "no\x1b[2Jid")
    assert code == 1
    assert "qtasks list" in out
    assert "\x1b" not in out


def test_verb__what_its_state_forbids() -> None:
    task_id = post("alice")
    code, out, _ = qtasks("delete", task_id)
    assert (code, "cancel" in out) == (1, True)
    assert qtasks("retry", task_id)[0] == 1


def test_verb__as_json() -> None:
    task_id = post("alice")
    code, out, _ = qtasks("cancel", task_id, "0" * 32, "--json")
    assert (code, json.loads(out)) == (1, {"tasks": {task_id: "done", "0" * 32: "unknown"}})


def keep_from(task_id: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an error keep `cancel` from this task."""

    def fail_once(asked: str, **options: Any) -> Came:
        if asked == task_id:
            raise error
        return cancel(asked, **options)

    monkeypatch.setitem(command_of_tasks.VERBS, "cancel", (fail_once, ""))


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["text", "json"])
def test_verb__an_error_of_one_task_stops_no_other(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = post("alice"), post("carol")
    keep_from(first, ValueError("odd"), monkeypatch)
    code, out, errors = qtasks("cancel", first, second, *words)
    assert code == 1
    assert errors == f"{first} is left as it is: odd\n"
    if words:
        assert json.loads(out) == {"tasks": {first: "failed", second: "done"}}
    else:
        assert out == f"{second} cancelled\n"


def test_verb__the_database_fails_and_it_says_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = post("alice"), post("bob"), post("carol")
    keep_from(second, full(), monkeypatch)
    code, out, errors = qtasks("cancel", first, second, third, "--json")
    assert (code, json.loads(out)) == (3, {"tasks": {first: "done"}})
    assert "full" in errors
    assert OrmQ.objects.count() == 2


@pytest.mark.parametrize("state", ["queued", "failed"])
def test_verb__changes_what_it_has_asked_about(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str) -> None:
        post(name)
        if state == "failed":
            settle(error=TRACEBACK)

    def confirm(_: Any, question: str) -> None:
        asked.append(question)
        make("late")

    asked: list[str] = []
    monkeypatch.setattr(command_of_tasks.Command, "_confirm", confirm)
    make("alice")
    verb = "cancel" if state == "queued" else "delete"
    assert qtasks(verb, "--state", state, "--all")[:2] == (0, f"{verb}: 1 done, 0 left as they are\n")
    assert asked == [f"{verb} 1 task?"]
    assert len(json.loads(qtasks("list", "--state", state, "--json")[1])["tasks"]) == 1


def test_verb__nothing_is_changed_that_came_when_it_had_counted_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(_: Any) -> list[list[str]]:
        post("late")
        return []

    monkeypatch.setattr(command_of_tasks, "matching", count)
    assert qtasks("cancel", "--state", "queued", "--all")[:2] == (0, "cancel: 0 done, 0 left as they are\n")
    assert OrmQ.objects.count() == 1


def test_verb__by_filters() -> None:
    failed("alice", "carol")
    code, out, _ = qtasks("retry", "--function", "write_log", "--error", "disk full", "--yes")
    assert (code, out) == (0, "retry: 2 done, 0 left as they are\n")
    assert OrmQ.objects.count() == 2
    code, out, _ = qtasks("cancel", "--state", "queued", "--all", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"done": 2, "skipped": 0})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cancel"], "Which tasks?"),
        (["cancel", "--all", "--yes"], "--state"),
        (["cancel", "--state", "queued", "--yes"], "--all"),
        (["retry", "--state", "failed", "--yes"], "--all"),
        (["cancel", "--state", "queued", "--error", "e", "--yes"], "have ended"),
        (["delete", "--older-than", "2h", "--yes"], "--state"),
        (["retry", "0" * 32, "--queue", "q"], "not both"),
        (["cancel", "--state", "queued", "--all"], "--yes"),
    ],
    ids=["nothing", "no state", "all of a state", "all failed ones", "no such filter", "age alone", "both", "no terminal"],
)
def test_verb__wrong_use_does_nothing(words: list[str], said: str) -> None:
    post("alice")
    code, _, errors = qtasks(*words)
    assert code == 2
    assert said in errors
    assert OrmQ.objects.count() == 1


@pytest.mark.parametrize("text", ["2", "h", "2 h", "1y", "9999999d", "999999d", "999999w", "0s"])
def test_older_than__what_is_no_time(text: str) -> None:
    code, _, errors = qtasks("retry", "--older-than", text, "--yes")
    assert code != 0
    assert "for example 2h" in errors


def test_pause_and_resume() -> None:
    assert qtasks("pause", "second", "--why", "the server is down")[1] == "second is paused\n"
    assert PausedQueue.objects.get().why == "the server is down"
    assert qtasks("pause", "second")[1] == "second was paused already\n"
    assert json.loads(qtasks("resume", "second", "--json")[1]) == {"queue": "second", "changed": True}
    assert not PausedQueue.objects.exists()


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_pause__of_a_queue_that_may_be_a_typing_error(action: str) -> None:
    assert "is that its name?" in qtasks(action, "emial")[2]
    assert qtasks(action, "notifier")[2] == ""


def test_list__says_what_is_paused() -> None:
    qtasks("pause", "second", "--why", "the server\x1b is down")
    assert "The queue second is paused since" in qtasks("list")[2]
    assert "(the server\ufffd is down)" in qtasks("list")[2]
    (pause,) = json.loads(qtasks("list", "--json")[1])["paused"]
    assert (pause["queue"], set(pause)) == ("second", {"queue", "by", "why", "since"})


def test_json__without_the_raw_result() -> None:
    task_id = post("alice")
    settle(result="fine")
    for words in (["list"], ["show", task_id]):
        assert "stored_result" not in json.loads(qtasks(*words, "--json")[1])["tasks"][0]


# In a terminal, and in a pipe.


def command(*words: str) -> list[str]:
    """The command as a shell would run it."""
    return [sys.executable, "manage.py", "qtasks", *words]


def env() -> dict[str, str]:
    """For the database of the running test."""
    return os.environ | {"DATABASE_URL": environment.database_url_of_test()}


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the user's side of it, and the program's."""
    user, program = pty.openpty()
    try:
        yield user, program
    finally:
        os.close(user)
        os.close(program)


@selection.slow_on_postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("\n", 2, 2)], ids=["yes", "no"])
def test_confirmation__in_a_terminal(answer: str, code: int, left: int) -> None:
    post("alice"), post("carol")
    with terminal() as (user, program):
        os.write(user, answer.encode())
        words = command("cancel", "--state", "queued", "--all")
        done = subprocess.run(words, cwd=PROJECT, env=env(), stdin=program, capture_output=True, text=True, check=False)
    assert "cancel 2 tasks? [y/N]" in done.stderr
    assert (done.returncode, OrmQ.objects.count()) == (code, left)


@selection.once
def test_help__says_what_somebody_at_night_needs() -> None:
    text = subprocess.run(command("--help"), cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for word in ("list", "show", "cancel", "retry", "run-now", "delete", "pause", "resume", "exit code", "--yes", "--all"):
        assert word in text


def test_list__by_state() -> None:
    (task_id,) = failed("alice\x1b[2J")
    waiting = post("carol")
    code, out, _ = qtasks("list", "--state", "failed")
    assert code == 0
    assert out.startswith(f"{task_id}  failed")
    assert "\x1b" not in out
    assert waiting not in out
    listed = json.loads(qtasks("list", "--json")[1])
    assert [task["id"] for task in listed["tasks"]] == [waiting, task_id]
    assert listed["tasks"][1]["state"] == "failed"


def test_list__goes_on_where_it_ended() -> None:
    ids = [post(str(number)) for number in range(3)]
    _, out, errors = qtasks("list", "--limit", "2")
    assert [line[:32] for line in out.splitlines()] == [ids[2], ids[1]]
    cursor = errors.strip().rpartition(" ")[2]
    assert qtasks("list", "--cursor", cursor)[1][:32] == ids[0]
    code, _, errors = qtasks("list", "--cursor", "no cursor")
    assert (code, bool(errors)) == (2, True)


def test_show() -> None:
    task_id = post("alice")
    qtasks("cancel", task_id)
    code, out, errors = qtasks("show", task_id, "0" * 32)
    assert code == 1
    assert "cancelled" in out
    assert "message to alice" in out
    assert "started at" not in out, "it never began"
    assert "0" * 32 in errors
    assert json.loads(qtasks("show", task_id, "--json")[1])["tasks"][0]["state"] == "cancelled"


@selection.slow_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_list__into_a_pipe_that_nobody_reads() -> None:
    for number in range(100):
        post(str(number))
    reader, writer = os.pipe()
    os.close(reader)
    words, said = command("list"), subprocess.PIPE
    done = subprocess.run(words, cwd=PROJECT, env=env(), stdout=writer, stderr=said, text=True, check=False)
    os.close(writer)
    assert done.stderr.partition("There are more")[0] == ""
    assert done.returncode == 0


@selection.on_sqlite
def test_database__that_is_not_there() -> None:
    nowhere = os.environ | {"DATABASE_URL": "sqlite:////nowhere/db"}
    done = subprocess.run(command("list"), cwd=PROJECT, env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "The database says" in done.stderr
    assert "Traceback" not in done.stderr
