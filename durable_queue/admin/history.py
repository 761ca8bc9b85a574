"""The pages of finished tasks: the function, the outcome, every attempt. A failed task can be retried."""

from typing import Any

from django.contrib import admin, messages
from django.db import router, transaction
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from durable_queue.admin.pages import ReadOnlyAdmin, attempts_table, duration, moment, notes_list, preformatted
from durable_queue.models import Cancellation, DeadLetter, FailedAttempt, Note
from durable_queue.status import status_of
from durable_queue.task.identifiers import queued_at
from durable_queue.task.preview import STORED, read_stored, shown
from durable_queue.task.stored_text import AsText
from durable_queue.task.text import storable
from durable_queue.verbs import Came, NotKeptError, retry

SEARCHED = 100_000  # newest rows that a search by name covers; the name has no index
AT_ONCE = 1_000  # tasks that one click retries: the request should take a few seconds at most
ERROR_LENGTH = 80  # characters of an error that a list shows


def _beginning(column: str) -> Left:
    """The first characters of a pickled column, as text: one more than a page reads."""
    return Left(AsText(column), STORED + 1)


def _as_text(stored: str | None) -> str:
    value = read_stored(stored)
    return value if isinstance(value, str) else shown(value)


def _or_none(stored: str | None) -> SafeString | None:
    value = read_stored(stored)
    return preformatted(shown(value)) if value else None


class HistoryAdmin(ReadOnlyAdmin):
    """The page of tasks that have ended. They may be deleted."""

    ordering = ("-stopped",)
    search_fields = ("name",)
    search_help_text = f"A task's whole id, or a part of its name: one of the {SEARCHED:,} that ended last"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The tasks, without their pickled columns: Django would unpickle these, and run what they hold."""
        return super().get_queryset(request).defer("args", "kwargs", "result")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The task of a page, with the beginning of its pickled columns, as text."""
        task = super().get_object(request, object_id, from_field)
        stored = {f"stored_{name}": _beginning(name) for name in ("args", "kwargs", "result")}
        texts = task and type(task)._default_manager.filter(pk=task.pk).values(**stored).first()
        if not texts:  # it was deleted, or retried, in between
            return None
        for name, text in texts.items():
            setattr(task, name, text)
        return task

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        """The task with this id; otherwise the newest tasks whose names match."""
        by_id = queryset.filter(pk=search_term.strip())
        if not search_term or by_id.exists():
            return (by_id if search_term else queryset), False
        newest = queryset.order_by("-stopped").values("pk")[:SEARCHED]
        return queryset.filter(pk__in=newest, name__icontains=search_term.strip()), False

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete a task with its attempts, notes and payload: they hold the same personal data."""
        self.delete_queryset(request, self.model._default_manager.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Delete tasks with their attempts, notes and payloads."""
        tasks, ids = self.model._default_manager.order_by("pk"), list(queryset.values_list("pk", flat=True))
        with transaction.atomic(using=router.db_for_write(self.model)):
            # The tasks come first, as everywhere: who took their attempts before them could wait for one who waits for these.
            # Locked in an order too, and none that is gone meanwhile, since somebody has retried it.
            ids = list(tasks.filter(pk__in=ids).select_for_update().values_list("pk", flat=True))
            self.model._default_manager.filter(pk__in=ids).delete()
            FailedAttempt.objects.filter(task_id__in=ids).delete()
            Note.objects.filter(task_id__in=ids).delete()
            DeadLetter.objects.filter(task_id__in=ids).delete()
            Cancellation.objects.filter(task_id__in=ids).delete()

    @admin.display(description="Function")
    def function(self, task: Any) -> str:
        """The function's name, without its module."""
        return str(task.func).rpartition(".")[2]

    @admin.display(description="Arguments")
    def arguments(self, task: Any) -> SafeString | None:
        """The positional arguments."""
        return _or_none(task.stored_args)

    @admin.display(description="Keyword arguments")
    def keyword_arguments(self, task: Any) -> SafeString | None:
        """The keyword arguments."""
        return _or_none(task.stored_kwargs)

    @admin.display(description="Queued at")
    def queued(self, task: Any) -> str | None:
        """When the task was enqueued, by its id."""
        at = queued_at(task.id)
        return moment(at) if at else None

    @admin.display(description="Started at")
    def began(self, task: Any) -> str:
        """When the last attempt began."""
        return moment(task.started)

    @admin.display(description="Ended at", ordering="stopped")
    def ended(self, task: Any) -> str:
        """When the last attempt ended."""
        return moment(task.stopped)

    @admin.display(description="Duration")
    def took(self, task: Any) -> str:
        """How long the last attempt took."""
        return duration(task.started, task.stopped)

    @admin.display(description="Worker")
    def worker(self, task: Any) -> str:
        """The worker of the last attempt."""
        status = status_of(task.id, using=type(task)._default_manager.db)
        return status.worker if status else ""

    @admin.display(description="Failed attempts")
    def attempts(self, task: Any) -> SafeString | None:
        """The attempts that failed, with their errors."""
        return attempts_table(FailedAttempt.objects.filter(task_id=task.id))

    @admin.display(description="Notes")
    def notes(self, task: Any) -> SafeString | None:
        """The notes on the task."""
        return notes_list(task.id)


class SuccessAdmin(HistoryAdmin):
    """The page of tasks that succeeded."""

    list_display = ("name", "function", "ended", "took")
    fields = (
        *("name", "id", "func", "arguments", "keyword_arguments", "returned"),
        *("queued", "began", "ended", "took", "worker", "attempt_count", "attempts", "notes", "group", "hook", "cluster"),
    )
    readonly_fields = fields

    @admin.display(description="Result")
    def returned(self, task: Any) -> SafeString | None:
        """The value that the function returned."""
        return None if (result := read_stored(task.stored_result)) is None else preformatted(shown(result))


class FailureAdmin(HistoryAdmin):
    """The page of failed tasks. They stay failed until a user retries them."""

    list_display = ("name", "function", "error", "ended")
    actions = ("retry",)
    fields = (
        *("name", "id", "func", "arguments", "keyword_arguments", "traceback"),
        *("queued", "began", "ended", "took", "attempt_count", "attempts", "notes", "dead_letter", "group", "hook", "cluster"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The failed tasks, with their errors."""
        rows: QuerySet[Any] = super().get_queryset(request).annotate(stored_result=_beginning("result"))
        return rows

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whether the user may both add queued tasks and delete failed ones."""
        return request.user.has_perms(("django_q.add_ormq", "django_q.delete_failure"))

    @admin.action(description="Retry", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Put failed tasks back into the queue, in the order in which they were first enqueued."""
        retried, left = 0, queryset.count() - AT_ONCE
        for task in queryset.order_by("pk")[:AT_ONCE]:
            try:
                if retry(task.id, by=request.user.get_username()) is Came.DONE:
                    self.log_change(request, task, "Retried.")
                    retried += 1
            except NotKeptError as error:
                self.message_user(request, str(error), messages.ERROR)
        were = "task was" if retried == 1 else "tasks were"
        self.message_user(request, f"{retried} {were} queued again.", messages.SUCCESS if retried else messages.WARNING)
        if left > 0:
            self.message_user(request, f"{left:,} more were selected: retry them in another go.", messages.WARNING)

    @admin.display(description="Error")
    def error(self, task: Any) -> str:
        """The first line of the error."""
        first = _as_text(task.stored_result).partition("\n")[0].partition(" : Traceback")[0]
        return storable(Truncator(first).chars(ERROR_LENGTH))

    @admin.display(description="Error")
    def traceback(self, task: Any) -> SafeString:
        """The error as the worker saved it."""
        return preformatted(_as_text(task.stored_result))

    @admin.display(description="Payload")
    def dead_letter(self, task: Any) -> SafeString | None:
        """The payload of a task that was refused, or cancelled before it began."""
        letter = DeadLetter.objects.filter(task_id=task.id).order_by("pk").last()
        if letter is None:
            return None
        return format_html("Kept as it was queued; if it is retried, it goes back like this.{}", preformatted(letter.payload))
