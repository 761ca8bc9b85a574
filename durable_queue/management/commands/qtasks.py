"""`manage.py qtasks`: look at tasks, and act on them."""

import json
import os
import pwd
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.utils import timezone
from django_q.conf import Conf

from durable_queue import status, verbs
from durable_queue.management.filters import WRONG_USE, add_filters, filters_of, selection_of
from durable_queue.selection import Progress, Selection, apply, bounded, for_all, matching
from durable_queue.states import State
from durable_queue.store.listing import MOST
from durable_queue.store.pausing import paused
from durable_queue.store.queues import is_known
from durable_queue.verbs import Came

HELP = """\
Look at tasks, and act on them: those with the given ids, or all that match a filter.

  qtasks list --state failed                          the failed tasks, the newest first
  qtasks show 01a2…                                   everything about one task
  qtasks cancel 01a2… --why "wrong recipient"         it never runs; one that runs is asked to stop
  qtasks retry --function send_mail --older-than 2h   failed tasks of a function, that failed 2 hours ago or earlier
  qtasks run-now --state retrying --all               what waits for its next attempt need not wait
  qtasks pause emails --why "the server is down"      tasks are accepted, and do not run
"""
EPILOG = """\
A filter asks how many tasks you mean, unless you say --yes. Nothing is done to all tasks in a state without --all.
A command that is stopped anywhere leaves no half-done task: give it again, and it does the rest.

exit code: 0 it is done, or was so already; 1 for some tasks it could not be done; 2 wrong use, or not confirmed;
3 the database could not be reached, or takes no changes.
"""
SOME_LEFT, NO_DATABASE = 1, 3
DEFAULT = 50  # tasks in a list

# Each verb's function, its help, and the words for what it comes to.
VERBS = {
    "cancel": (verbs.cancel, "End tasks that wait, and ask those that run to stop."),
    "retry": (verbs.retry, "Queue failed or cancelled tasks again, under their ids."),
    "run-now": (verbs.run_now, "Have tasks that are scheduled or retrying be due now."),
    "delete": (verbs.delete, "Delete tasks that have ended from the history."),
}
WORDS = {
    ("cancel", Came.DONE): "cancelled",
    ("cancel", Came.ASKED): "is running, and was asked to stop",
    ("cancel", Came.NOTHING): "was cancelled before",
    ("cancel", Came.REFUSED): "has ended: there is nothing to cancel",
    ("retry", Came.DONE): "queued again",
    ("retry", Came.REFUSED): "has neither failed nor been cancelled: `qtasks show` tells its state",
    ("run-now", Came.DONE): "is due now",
    ("run-now", Came.NOTHING): "was due already",
    ("run-now", Came.REFUSED): "runs, or has ended: `qtasks show` tells its state",
    ("delete", Came.DONE): "deleted",
    ("delete", Came.REFUSED): "has not ended: `qtasks cancel` it first",
}
FAILED = "failed"  # in JSON: an error kept the verb from the task
UNKNOWN = "unknown: it never was, or was pruned. An id has 32 digits: `qtasks list` shows them"


class Command(BaseCommand):
    """Doors to durable_queue.status and durable_queue.verbs."""

    help = HELP
    requires_system_checks = ()  # who is paged wants an answer, and not the warnings of a check

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """The same, with the lines of the help as they are."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class, parser.epilog = RawDescriptionHelpFormatter, EPILOG
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Define the actions and their options."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listed = actions.add_parser("list", help="Show tasks, the newest first, and which queues are paused.")
        listed.add_argument("--state", type=State, choices=list(State), metavar="STATE", help=", ".join(State))
        listed.add_argument("--queue", default="", help="Only those of this queue.")
        listed.add_argument("--limit", type=int, default=DEFAULT, help=f"How many: up to {MOST} ({DEFAULT}).")
        listed.add_argument("--cursor", help="Go on where another list has ended.")
        shown = actions.add_parser("show", help="Show all that is known of tasks.")
        shown.add_argument("ids", nargs="+", metavar="ID")
        for name, (_, text) in VERBS.items():
            add_filters(actions.add_parser(name, help=text, description=text), name)
        for name, text in (("pause", "Have a queue accept tasks and run none."), ("resume", "Have a paused queue run tasks.")):
            paused = actions.add_parser(name, help=text, description=text)
            paused.add_argument("queue", nargs="?", default=Conf.CLUSTER_NAME, help=f"The queue (here: {Conf.CLUSTER_NAME}).")
            paused.add_argument("--why", default="", help="The reason, for the log and for others.")
        for action in actions.choices.values():
            action.add_argument("--json", action="store_true", help="Print JSON, for programs.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        """Do what is asked."""
        try:
            is_done = self._act(action, options)
            self.stdout.flush()
        except DatabaseError as error:
            raise CommandError(f"The database says: {str(error).strip()}", returncode=NO_DATABASE) from error
        except ValueError as error:  # a cursor that is none, filters that don't go together
            raise CommandError(str(error), returncode=WRONG_USE) from error
        except BrokenPipeError:  # the reader has seen enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        if not is_done:
            sys.exit(SOME_LEFT)

    def _act(self, action: str, options: dict[str, Any]) -> bool:
        if action == "list":
            return self._list(**options)
        if action == "show":
            return self._show(options["ids"], as_json=options["json"])
        if action in VERBS:
            return self._apply(action, options)
        return self._pause(action, options)

    # Looking.

    def _list(self, *, state: State | None, queue: str, limit: int, cursor: str | None, json: bool, **_: Any) -> bool:
        found, after = status.newest(limit=max(1, limit), before=cursor, state=state, queue=queue)
        pauses = paused()
        if json:
            told = [{name: getattr(pause, name) for name in ("queue", "by", "why", "since")} for pause in pauses]
            self._print_json({"tasks": [_shown(task) for task in found], "cursor": after, "paused": told})
            return True
        for task in found:
            queued = f"{timezone.localtime(task.enqueued_at):%Y-%m-%d %H:%M:%S}" if task.enqueued_at else "-"
            self._print(f"{task.id}  {task.state:<9}  {queued}  {_printable(task.queue)}  {_printable(task.name)}")
        for pause in pauses:
            why = f" ({_printable(pause.why)})" if pause.why else ""
            since = f"{timezone.localtime(pause.since):%Y-%m-%d %H:%M:%S}"
            self.stderr.write(f"The queue {_printable(pause.queue)} is paused since {since}, by {_printable(pause.by)}{why}")
        if after:
            self.stderr.write(f"There are more: --cursor {after}")
        return True

    def _show(self, ids: Sequence[str], *, as_json: bool) -> bool:
        found = status.statuses(ids)
        if as_json:
            self._print_json({"tasks": [_shown(found[task_id]) for task_id in ids if task_id in found]})
        for task_id in ids:
            if task_id not in found:
                self.stderr.write(f"{_printable(task_id)} is {UNKNOWN}")
            elif not as_json:
                for name, value in _shown(found[task_id]).items():
                    if value not in (None, ""):
                        self._print(f"{name.replace('_', ' '):<20} {_printable(_text(value))}")
                self._print("")
        return all(task_id in found for task_id in ids)

    # Acting.

    def _apply(self, action: str, options: dict[str, Any]) -> bool:
        verb, who, why = VERBS[action][0], _user(), options["why"]
        ids, filters = options["ids"], filters_of(options)
        if ids and (filters or options["all"]):
            raise CommandError("Give ids, or filters: not both.", returncode=WRONG_USE)
        if not ids:
            return self._apply_to_all(action, selection_of(action, filters, options), options)
        came: dict[str, str] = {}
        try:
            for task_id in ids:
                each = apply(verb, task_id, by=who, why=why)
                if isinstance(each, Exception):
                    self.stderr.write(f"{_printable(task_id)} is left as it is: {_printable(str(each).strip() or repr(each))}")
                elif not options["json"]:
                    self._print(f"{_printable(task_id)} {WORDS.get((action, each), f'is {UNKNOWN}')}")
                came[task_id] = FAILED if isinstance(each, Exception) else each
        finally:  # it is said what was done, whatever stops the rest
            if options["json"]:
                self._print_json({"tasks": came})
        return not {Came.REFUSED, Came.UNKNOWN, FAILED} & set(came.values())

    def _apply_to_all(self, action: str, selection: Selection, options: dict[str, Any]) -> bool:
        selection = bounded(selection)  # what is asked about is what is changed
        count = None if options["yes"] else sum(map(len, matching(selection)))
        if count:
            self._confirm(f"{action} {count:,} {'task' if count == 1 else 'tasks'}?")
        progress = Progress(0, 0)
        try:
            for progress in for_all(VERBS[action][0], selection, by=_user(), why=options["why"]) if count != 0 else ():
                if sys.stderr.isatty():
                    self.stderr.write(f"\r{progress.done:,} done, {progress.skipped:,} left as they are", ending="")
        finally:
            if sys.stderr.isatty():
                self.stderr.write("")
            if options["json"]:
                self._print_json(progress._asdict())
            else:
                self._print(f"{action}: {progress.done:,} done, {progress.skipped:,} left as they are")
        return not progress.skipped

    def _confirm(self, question: str) -> None:
        if not sys.stdin.isatty():
            raise CommandError(f"{question} There is no terminal to ask: say --yes.", returncode=WRONG_USE)
        self.stderr.write(f"{question} [y/N] ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was done.", returncode=WRONG_USE)

    def _pause(self, action: str, options: dict[str, Any]) -> bool:
        verb = verbs.pause if action == "pause" else verbs.resume
        is_new = verb(options["queue"], by=_user(), why=options["why"])
        if not is_known(options["queue"], Conf.ORM or "default"):
            name = _printable(options["queue"])
            self.stderr.write(f"No worker serves the queue {name}, and Q_CLUSTER does not name it: is that its name?")
        if options["json"]:
            self._print_json({"queue": options["queue"], "changed": is_new})
        else:
            name, said = _printable(options["queue"]), "paused" if action == "pause" else "running"
            self._print(f"{name} is {said}" if is_new else f"{name} was {said} already")
        return True

    def _print(self, line: str) -> None:
        self.stdout.write(line)

    def _print_json(self, value: object) -> None:
        self.stdout.write(json.dumps(value, default=_text, indent=2))


def _user() -> str:
    """The operating system's user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container
        return f"uid {os.getuid()}"


def _shown(task: status.TaskStatus) -> dict[str, Any]:
    """What is told of a task: not its result as the history has it, which only Python reads."""
    return {name: value for name, value in asdict(task).items() if name != "stored_result"}


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _printable(text: str) -> str:
    """The text as a terminal may show it: a task's name must not move its cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)
