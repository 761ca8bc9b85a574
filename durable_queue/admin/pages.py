"""The base of the admin's pages. They are read-only, and five million rows take them no longer than fifty."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from durable_queue.admin.addresses import CheckedAddresses
from durable_queue.models import FailedAttempt, Note
from durable_queue.task.preview import shortened
from durable_queue.task.text import storable

if TYPE_CHECKING:
    Pages = Paginator[Any]
else:  # it can't be subscripted at run time
    Pages = Paginator

LISTED = 10_000  # rows that a list pages through; counting all five million would take seconds
ATTEMPTS_SHOWN = 50
NOTES_SHOWN = 50


class CappedPaginator(Pages):
    """Pages through the first rows, and does not count the rest."""

    object_list: Any  # a QuerySet

    @cached_property
    def count(self) -> int:
        """How many rows the list pages through."""
        return int(self.object_list.order_by().values("pk")[:LISTED].count())

    @property
    def is_capped(self) -> bool:
        """Whether there may be more rows than the list pages through."""
        return self.count == LISTED


class ReadOnlyAdmin(CheckedAddresses):
    """A page that shows rows, and neither adds nor changes any."""

    paginator = CappedPaginator
    show_full_result_count = False
    list_per_page = 50
    sortable_by = ()  # only the order of the list has an index
    show_facets = admin.ShowFacets.NEVER  # facets count every row
    empty_value_display = "-"

    class Media:
        css = {"all": ("durable_queue/admin.css",)}  # noqa: RUF012 - as Django wants it

    def has_add_permission(self, request: HttpRequest) -> bool:
        """No: rows are not made by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No: rows are not changed by hand."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with the model's plural name as its title."""
        title = capfirst(str(self.opts.verbose_name_plural))
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The fields of a row that have a value."""
        return [name for name in super().get_fields(request, obj) if self._value(str(name), obj) not in (None, "")]

    def _value(self, name: str, obj: Any) -> Any:
        return getattr(self, name)(obj) if hasattr(self, name) else getattr(obj, name)

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> HttpResponse | None:
        """Run an action. "Select all" selects the rows that the list pages through, and none beyond."""
        listed = self.get_queryset(request).filter(pk__in=queryset.values("pk")[:LISTED])
        return super().response_action(request, listed, *args, **kwargs)


def preformatted(text: str) -> SafeString:
    """The text with its line breaks; long lines wrap."""
    return format_html('<pre class="cluster-text">{}</pre>', storable(shortened(text)))


def attempts_table(attempts: Iterable[FailedAttempt]) -> SafeString | None:
    """The failed attempts, each with its error; None if there are none."""
    listed = list(attempts)[-ATTEMPTS_SHOWN:]
    if not listed:
        return None
    for attempt in listed:
        attempt.error = shortened(attempt.error)
    return render_to_string("durable_queue/attempts.html", {"attempts": listed})


def notes_list(task_id: str) -> SafeString | None:
    """The notes on a task; None if there are none."""
    listed = list(Note.objects.filter(task_id=task_id))[-NOTES_SHOWN:]
    return render_to_string("durable_queue/notes.html", {"notes": listed}) if listed else None


def moment(at: datetime) -> str:
    """The time to the millisecond, in the site's time zone."""
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def duration(started: datetime, stopped: datetime) -> str:
    """How long it took from `started` to `stopped`, to the millisecond if it was under a second."""
    seconds = (stopped - started).total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def host_name(host: object) -> str:
    """The host's name, without the part that tells its boots and containers apart."""
    return str(host).partition(" ")[0]
