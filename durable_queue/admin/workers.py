"""The page of the workers that run tasks."""

from typing import Any

from django.contrib import admin
from django.db.models import F, Func, IntegerField, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django_q.models import OrmQ

from durable_queue.admin.pages import ReadOnlyAdmin, host_name, moment
from durable_queue.states import Present


class WorkerAdmin(ReadOnlyAdmin):
    """The page of workers. A worker's row can't be deleted here: it names the lease of the rows that the worker holds."""

    ordering = ("started",)
    list_display = ("process", "queue", "holds", "seen")
    fields = ("process", "host", "queue", "holds", "seen", "since", "supervisor_pid", "restarts", "name")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The workers, each with the number of rows that it holds."""
        rows = OrmQ.objects.filter(key=OuterRef("queue"), lock=OuterRef("lease"))
        count = rows.annotate(count=Func(F("pk"), function="COUNT", output_field=IntegerField())).values("count")
        workers: QuerySet[Any] = super().get_queryset(request).annotate(held=Subquery(count), present=Present())
        return workers

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No: the rows that the worker holds would never be released."""
        return False

    @admin.display(description="Process")
    def process(self, worker: Any) -> str:
        """The pid and the host."""
        return f"{worker.pid} on {host_name(worker.host)}"

    @admin.display(description="Tasks in hand")
    def holds(self, worker: Any) -> int:
        """How many rows the worker has claimed and not yet settled."""
        return int(worker.held or 0)

    @admin.display(description="Last heartbeat")
    def seen(self, worker: Any) -> str:
        """How long ago the last heartbeat for this worker was."""
        return f"{max(0.0, (worker.present - worker.heartbeat).total_seconds()):.0f} s ago"

    @admin.display(description="Started at")
    def since(self, worker: Any) -> str:
        """When the worker started."""
        return moment(worker.started)
