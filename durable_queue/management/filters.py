"""The filters of `manage.py qtasks`: which tasks a verb is for."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from durable_queue.selection import Selection
from durable_queue.states import State

WRONG_USE = 2  # exit code
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(days=100 * 365)
USUAL_STATE = {"retry": State.FAILED}  # of the tasks that a verb is for


def add_filters(parser: ArgumentParser, name: str) -> None:
    """Define the options of a verb: ids or filters, and why."""
    usual = USUAL_STATE.get(name)
    parser.add_argument("ids", nargs="*", metavar="ID", help="The tasks; or give filters instead.")
    given = f" ({usual}, if it is not given)" if usual else ""
    parser.add_argument("--state", type=State, choices=list(State), metavar="STATE", help=f"One of {', '.join(State)}{given}.")
    parser.add_argument("--function", default="", help="Its dotted path, or its name; of tasks that have ended.")
    parser.add_argument("--queue", default="", help="Only those of this queue.")
    parser.add_argument("--older-than", type=_duration, metavar="TIME", help="Queued, or ended, so long ago: 90s, 30m, 2h, 7d.")
    parser.add_argument("--error", default="", metavar="TEXT", help="Only those whose error has this text.")
    parser.add_argument("--all", action="store_true", help="All tasks in the state.")
    parser.add_argument("--why", default="", help="The reason, for the log and for others.")
    parser.add_argument("--yes", action="store_true", help="Do not ask.")


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not match or not int(match[1]):
        raise ArgumentTypeError(f"{text!r} is no time: write a number and s, m, h, d or w, for example 2h")
    duration = timedelta(**{UNITS[match[2]]: int(match[1])})
    if duration > LONGEST:
        raise ArgumentTypeError(f"{text!r} is longer than any task is old: write a number and s, m, h, d or w, for example 2h")
    return duration


def filters_of(options: dict[str, Any]) -> dict[str, Any]:
    """The filters that were given."""
    given = {name: options[name] for name in ("state", "function", "queue", "error") if options[name]}
    return given | ({"before": timezone.now() - options["older_than"]} if options["older_than"] else {})


def selection_of(action: str, filters: dict[str, Any], options: dict[str, Any]) -> Selection:
    """The tasks that the filters mean. Raises CommandError where they may mean more than was thought of, and ValueError."""
    if "state" not in filters and not (filters or options["all"]):
        raise CommandError("Which tasks? Give ids, or filters: see --help.", returncode=WRONG_USE)
    state = filters.get("state") or USUAL_STATE.get(action)
    if state is None:
        raise CommandError("In which state? Say --state, for example --state queued.", returncode=WRONG_USE)
    selection = Selection(**{**filters, "state": state})
    if selection.is_everything and not options["all"]:
        message = f"This means all tasks that are {state}. Say --all if you do, or give another filter."
        raise CommandError(message, returncode=WRONG_USE)
    return selection
