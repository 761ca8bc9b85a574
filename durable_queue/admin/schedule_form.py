"""The form of a schedule. It refuses what can never be computed, and what will most likely fail, where that has changed."""

import pydoc
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.functional import cached_property
from django_q.conf import Conf
from django_q.models import Schedule, validate_kwarg

from durable_queue.schedule import doubts
from durable_queue.schedule.due import zone_name
from durable_queue.schedule.stored import state_of
from durable_queue.schedule.zones import zone_names
from durable_queue.task.calls import resolve

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:
    ModelForm = forms.ModelForm

HELP = {
    "next_run": "A moment that has passed: it runs at once. Empty: never. A cron line begins at its first match from then on.",
    "minutes": "Of the type Minutes: how many lie between two runs.",
    "cron": "Of the type Cron: minute, hour, day of the month, month, day of the week, as in 0 7 * * 1-5",
}


class ScheduleForm(ModelForm):
    """A schedule, with its zone, which is in a table of ours."""

    zone = forms.ChoiceField(required=False, label="Time zone", help_text="Whose clock on the wall it follows.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """A field that is empty or unknown in the row may stay so: a broken schedule can be renamed."""
        super().__init__(*args, **kwargs)
        is_there = self.instance.pk is not None
        state = state_of(self.instance.pk, self.instance._state.db or "default") if is_there else None
        own = state.zone if state else ""
        for name, field in self.fields.items():
            field.help_text = HELP.get(name, field.help_text)
            field.show_hidden_initial = is_there  # a run, or somebody else, may change it while the page is open
            if is_there and self.initial.get(name) in (None, ""):
                field.required = False
        if "next_run" in self.fields:
            self.fields["next_run"].required = False
        if "zone" in self.fields:
            self.initial["zone"] = own
            self._choose_from("zone", [("", f"the default: {zone_name()}"), *((name, name) for name in zone_names())], own)
        if "schedule_type" in self.fields:
            self._choose_from("schedule_type", list(Schedule.TYPE), self.instance.schedule_type)

    def _choose_from(self, name: str, choices: list[tuple[str, Any]], own: str) -> None:
        known = [value for value, _ in choices]
        choices = choices if own in known else [*choices, (own, f"{own!r}, which is unknown")]
        self.fields[name].choices = choices  # type: ignore[attr-defined]

    @cached_property
    def changed_data(self) -> list[str]:
        """The fields that somebody has changed. A browser sends its own line ends, and Django cuts off spaces."""
        return [name for name in super().changed_data if not self._is_same_text(name)]

    def _is_same_text(self, name: str) -> bool:
        """Whether a text is the one that the page has shown, or that there is now if the request does not say."""
        was = self.data.get(self.add_initial_prefix(name), self.initial.get(name))
        sent = self.data.get(self.add_prefix(name))
        return isinstance(was, str) and isinstance(sent, str) and was.strip().splitlines() == sent.strip().splitlines()

    def clean_func(self) -> str:
        """The dotted path of a function that this installation can import."""
        func: str = self.cleaned_data["func"]
        return _importable(func, "function", "notifications.tasks.write_log") if "func" in self.changed_data else func

    def clean_hook(self) -> str | None:
        """The dotted path of a hook that this installation can import, if there is one."""
        hook: str | None = self.cleaned_data["hook"]
        return _importable(hook, "hook", "app.tasks.after") if hook and "hook" in self.changed_data else hook

    def clean_intended_date_kwarg(self) -> str | None:
        """A valid name of an argument."""
        name: str | None = self.cleaned_data["intended_date_kwarg"]
        if name and "intended_date_kwarg" in self.changed_data and not validate_kwarg(name):
            raise ValidationError("That can't be the name of an argument.")
        return name

    def clean_cluster(self) -> str | None:
        """A queue that this installation knows. No scheduler reads a schedule for any other queue."""
        cluster: str | None = self.cleaned_data["cluster"]
        known = [Conf.PREFIX, *(Conf.conf.get("ALT_CLUSTERS") or {})]
        if cluster and "cluster" in self.changed_data and cluster not in known:
            raise ValidationError(f"There is no such cluster; leave it empty, or write one of: {', '.join(known)}")
        return cluster

    def clean(self) -> dict[str, Any]:
        """What depends on several fields. The model says what can never be computed (durable_queue/schedule/refusing.py)."""
        fields: dict[str, Any] = super().clean() or {}
        changed, kind = set(self.changed_data), fields.get("schedule_type")
        if self.instance.pk is None:
            changed |= set(self.fields)
        else:  # what was not touched stays as it is by now: the page may have been open for an hour
            kept = fields.keys() - changed
            fields |= {name: self.initial["zone"] if name == "zone" else getattr(self.instance, name) for name in kept}
        if kind == Schedule.MINUTES and {"schedule_type", "minutes"} & changed and not self.errors and not fields["minutes"]:
            self.add_error("minutes", "Write how many minutes lie between two runs: 1 or more.")
        if self.instance.pk is None and kind != Schedule.CRON and "next_run" in fields and not fields["next_run"]:
            self.add_error("next_run", "Write when it runs first.")
        self._check_fit(fields, changed)
        if "zone" in fields:
            self.instance.zone = fields["zone"]
        return fields

    def _check_fit(self, fields: dict[str, Any], changed: set[str]) -> None:
        if doubts.FIELDS & changed and fields.keys() >= doubts.FIELDS:
            try:
                func = resolve(fields["func"])
            except Exception:  # it has not changed
                return
            if problem := doubts.misfit(func, fields["args"], fields["kwargs"], fields["intended_date_kwarg"]):
                self.add_error("args", problem)


def _importable(path: str, what: str, example: str) -> str:
    try:
        resolve(path)
    except pydoc.ErrorDuringImport as error:
        raise ValidationError(f"Its module can't be imported: {error.value}") from error
    except LookupError as error:
        raise ValidationError(f"{error} Write the dotted path of a {what}, as in {example}") from error
    except Exception as error:  # the path leads through code
        raise ValidationError(f"It can't be looked up: {type(error).__name__}") from error
    return path
