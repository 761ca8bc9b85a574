"""The page of schedules: django-q2's page, with a form that refuses values on which its scheduler would fail."""

import ast
import pydoc
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django_q.admin import ScheduleAdmin as DjangoQScheduleAdmin
from django_q.conf import Conf
from django_q.models import Schedule, validate_kwarg

from durable_queue.admin.pages import moment
from durable_queue.task.calls import resolve

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:
    ModelForm = forms.ModelForm


# The exceptions that ast.literal_eval may raise (https://docs.python.org/3/library/ast.html#ast.literal_eval).
UNREADABLE = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)


class ScheduleForm(ModelForm):
    """A schedule. One that the scheduler can't read stops every schedule of the cluster (django_q/scheduler.py)."""

    def clean_func(self) -> str:
        """The dotted path of a function that this installation can import."""
        func: str = self.cleaned_data["func"]
        try:
            resolve(func)
        except pydoc.ErrorDuringImport as error:
            raise ValidationError(f"Its module can't be imported: {error.value}") from error
        except LookupError as error:
            raise ValidationError(
                "There is no such function: write its dotted path, as in notifications.tasks.write_log"
            ) from error
        return func

    def clean_args(self) -> str | None:
        """Python literals, separated by commas."""
        args: str | None = self.cleaned_data["args"]
        try:
            ast.literal_eval(args or "()")
        except UNREADABLE as error:
            raise ValidationError("Write Python literals, text in quotes: 1, 'John'") from error
        return args

    def clean_kwargs(self) -> str | None:
        """A dict of Python literals, or keyword arguments as they are written in a call."""
        kwargs: str | None = self.cleaned_data["kwargs"]
        try:
            _check_kwargs(kwargs or "")
        except UNREADABLE as error:
            raise ValidationError("Write names and Python literals, text in quotes: x=1, name='John'") from error
        return kwargs

    def clean_intended_date_kwarg(self) -> str | None:
        """A valid name of an argument."""
        name: str | None = self.cleaned_data["intended_date_kwarg"]
        if name and not validate_kwarg(name):
            raise ValidationError("That can't be the name of an argument.")
        return name

    def clean_cluster(self) -> str | None:
        """A queue that this installation knows. No scheduler reads a schedule for any other queue."""
        cluster: str | None = self.cleaned_data["cluster"]
        known = [Conf.PREFIX, *Conf.conf.get("ALT_CLUSTERS", {})]
        if cluster and cluster not in known:
            raise ValidationError(f"There is no such cluster; leave it empty, or write one of: {', '.join(known)}")
        return cluster

    def clean(self) -> dict[str, Any]:
        """A cron schedule needs a cron expression. The field itself checks whether the expression is valid."""
        fields: dict[str, Any] = super().clean() or {}
        if fields.get("schedule_type") == Schedule.CRON and "cron" in fields and not fields["cron"]:
            self.add_error("cron", "Write when it runs, as in 0 7 * * 1-5")
        return fields


def _check_kwargs(text: str) -> None:
    """Read keyword arguments as django-q2's scheduler reads them. Raises one of UNREADABLE."""
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError(text)
    if call.args and not isinstance(ast.literal_eval(text), dict):
        raise ValueError(text)
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(text)
        ast.literal_eval(keyword.value)


class ScheduleAdmin(DjangoQScheduleAdmin):  # type: ignore[misc]
    """The page of schedules."""

    form = ScheduleForm
    list_display = ("label", "due", "get_last_run", "get_success")
    list_display_links = ("label",)
    list_filter = ("schedule_type",)

    class Media:
        css = {"all": ("durable_queue/admin.css",)}  # noqa: RUF012 - as Django wants it

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list, with "Scheduled tasks" as its title."""
        return super().changelist_view(request, {"title": "Scheduled tasks", **(extra_context or {})})

    @admin.display(description="Task", ordering="func")
    def label(self, schedule: Any) -> str:
        """The schedule's name, if it has one, and its function."""
        return f"{schedule.name}: {schedule.func}" if schedule.name else str(schedule.func)

    @admin.display(description="Next run", ordering="next_run")
    def due(self, schedule: Any) -> str | None:
        """When the schedule's next task will be enqueued."""
        return schedule.next_run and moment(schedule.next_run)

    @admin.display(description="Last run")
    def get_last_run(self, schedule: Any) -> Any:
        """The schedule's last task, if that task has ended."""
        return super().get_last_run(schedule)

    @admin.display(description="Succeeded", boolean=True)
    def get_success(self, schedule: Any) -> Any:
        """Whether that task succeeded."""
        return super().get_success(schedule)
