"""The page of queued tasks."""

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString
from django_q.models import OrmQ

from durable_queue.admin.pages import ReadOnlyAdmin, attempts_table, host_name, moment, notes_list, preformatted
from durable_queue.models import FailedAttempt, Worker
from durable_queue.schedule.moments import read as moment_in
from durable_queue.states import Present, State, due_since, held, is_held, rows_in, state_of_row
from durable_queue.store.leases import home_queue
from durable_queue.store.queues import is_served, pause_of_row
from durable_queue.task.identifiers import queued_at
from durable_queue.task.preview import Preview, read, shown
from durable_queue.task.stored_text import AsText


class HeldError(Exception):
    """A worker took the row in the meantime."""


class StateFilter(admin.SimpleListFilter):
    """Filters rows by their state."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices, which are always the same."""
        return [
            ("due", "Due"),
            ("later", "Due later"),
            ("taken", "Taken by a worker"),
            ("unserved", "No worker serves its queue"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows in the chosen state."""
        states = {
            "due": rows_in(State.QUEUED),
            "later": rows_in(State.SCHEDULED) | rows_in(State.RETRYING),
            "taken": rows_in(State.RUNNING),
            "unserved": Q(is_served=False),
        }
        return queryset.filter(states[self.value()]) if self.value() in states else queryset  # type: ignore[index]


class QueueAdmin(ReadOnlyAdmin):
    """The page of queue rows. A row may be deleted unless a worker has taken it."""

    ordering = ("key", "lock", "id")  # as the index of claims has it: the next row comes first, save for a delay that is over
    list_display = ("task", "function", "state")
    list_filter = (StateFilter,)
    actions = ("delete_selected",)
    fields = (
        *("task", "task_id", "func", "arguments", "keyword_arguments", "problem"),
        *("state", "queued", "due", "attempts", "notes", "options", "key"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows, each with the worker that holds it, the number of its failed attempts, and whether a worker may take it."""
        holder = Worker.objects.filter(lease=OuterRef("lock"))
        attempts = FailedAttempt.objects.filter(row=OuterRef("pk")).order_by().values("row").annotate(count=Count("pk"))
        rows: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .defer("lock")
            .annotate(
                lock_text=AsText("lock"),
                holder_pid=Subquery(holder.values("pid")[:1]),
                holder_host=Subquery(holder.values("host")[:1]),
                tried=Subquery(attempts.values("count")),
                is_served=is_served(),
                paused_by=Subquery(pause_of_row().values("by")),
                paused_since=Subquery(pause_of_row().values("since")),
                present=Present(),
            )
        )
        return rows

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row with this number, of 64 bits too: Django finds none with `pk=` (durable_queue/store/postgresql/ids.py)."""
        self.check_key(object_id)
        return self.get_queryset(request).filter(pk__in=[object_id]).first()

    # Deleting.

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Not while a worker holds the row: the task would run, and leave no trace."""
        return super().has_delete_permission(request, obj) and (obj is None or not is_held(lock_of(obj)))

    @admin.action(description="Delete selected queued tasks", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Delete the selected rows, except those that a worker has taken."""
        taken = queryset.filter(held()).count()
        if taken:
            self.message_user(request, f"{taken} of them are taken by a worker, and stay.", messages.WARNING)
        return delete_selected(self, request, queryset.exclude(held()))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """The names of the tasks that a deletion removes. No other table refers to a queue row, and none is searched."""
        lacking = set() if self.has_delete_permission(request) else {str(self.opts.verbose_name)}
        return [preview(row).name for row in objs], {self.opts.verbose_name_plural: len(objs)}, lacking, []

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Delete rows. A row that a worker takes at this very moment stays."""
        OrmQ.objects.filter(pk__in=list(queryset.values_list("pk", flat=True))).exclude(held()).delete()

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete a row. Raises HeldError if a worker has just taken it."""
        if not OrmQ.objects.filter(pk__in=[obj.pk]).exclude(held()).delete()[0]:
            raise HeldError

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """The page that asks for confirmation, then deletes."""
        try:
            return super().delete_view(request, object_id, extra_context)
        except HeldError:
            self.message_user(request, "A worker took the task in the meantime: it was not deleted.", messages.ERROR)
            return HttpResponseRedirect(reverse("admin:django_q_ormq_changelist"))

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: int) -> HttpResponse:
        """The message after a deletion. It gives the row's number, since the model has no name for a row."""
        return super().response_delete(request, f"row {obj_id}", obj_id)

    # Showing.

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """The page of one row, with the task's name as its title."""
        context["subtitle"] = preview(context["original"]).name
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description="Name")
    def task(self, row: Any) -> str:
        """The task's name."""
        return preview(row).name

    @admin.display(description="Task id")
    def task_id(self, row: Any) -> str:
        """The task's id."""
        return preview(row).id

    @admin.display(description="Function")
    def function(self, row: Any) -> str:
        """The function's name, without its module."""
        return preview(row).func.rpartition(".")[2]

    @admin.display(description="Function")
    def func(self, row: Any) -> str:
        """The function's dotted path."""
        return preview(row).func

    @admin.display(description="Arguments")
    def arguments(self, row: Any) -> SafeString | None:
        """The positional arguments."""
        return preformatted(shown(preview(row).args)) if preview(row).args else None

    @admin.display(description="Keyword arguments")
    def keyword_arguments(self, row: Any) -> SafeString | None:
        """The keyword arguments."""
        return preformatted(shown(preview(row).kwargs)) if preview(row).kwargs else None

    @admin.display(description="Options")
    def options(self, row: Any) -> SafeString | None:
        """The options that `async_task` was given."""
        return preformatted(shown(preview(row).options)) if preview(row).options else None

    @admin.display(description="Problem")
    def problem(self, row: Any) -> str:
        """Why the payload can't be read."""
        return preview(row).problem

    @admin.display(description="Queued at")
    def queued(self, row: Any) -> str | None:
        """When the task was enqueued, by its id."""
        at = queued_at(preview(row).id)
        return moment(at) if at else None

    @admin.display(description="Due at")
    def due(self, row: Any) -> str | None:
        """When the row is or was due. None for a row that is taken: its `lock` holds the name of the lease instead."""
        lock = lock_of(row)
        if lock is None:
            return row.lock_text and f"can't be read: {row.lock_text}"
        return None if is_held(lock) else moment(due_since(lock))

    @admin.display(description="State")
    def state(self, row: Any) -> str:
        """The state, in words that name the worker, the next attempt, a pause, or the queue that no worker serves."""
        if row.is_served or is_held(lock_of(row)):
            return self._state(row)
        return f"{self._state(row)}: no worker serves the queue {home_queue(str(row.key))}"

    def _state(self, row: Any) -> str:
        match state_of_row(lock_of(row), row.tried or 0, row.present):
            case State.RUNNING if row.holder_pid is None:
                return "Taken by a worker that is gone"
            case State.RUNNING:
                return f"Taken by worker {row.holder_pid} on {host_name(row.holder_host)}"
            case State.RETRYING:
                return f"Waits for attempt {row.tried + 1}"
            case State.SCHEDULED:
                return "Due later"
        due = f"Due for attempt {row.tried + 1}" if row.tried else "Due"
        return due if row.paused_since is None else f"{due}: paused by {row.paused_by} since {moment(row.paused_since)}"

    @admin.display(description="Failed attempts")
    def attempts(self, row: Any) -> SafeString | None:
        """The failed attempts so far, including those before the task was submitted again."""
        of_task = Q(task_id=preview(row).id) if preview(row).id else Q()
        return attempts_table(FailedAttempt.objects.filter(Q(row=row.pk) | of_task))

    @admin.display(description="Notes")
    def notes(self, row: Any) -> SafeString | None:
        """The notes on the task so far."""
        return notes_list(preview(row).id)


def lock_of(row: Any) -> datetime | None:
    """The row's `lock`, aware; None if there is none, or none that Python has."""
    return moment_in(row.lock_text)


def preview(row: Any) -> Preview:
    """A preview of the row's payload, made once."""
    if "_preview" not in row.__dict__:
        row._preview = read(row.payload)
    found: Preview = row._preview
    return found
