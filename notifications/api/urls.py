"""The routes of the HTTP API. Each path names who answers which method."""

from django.urls import path, re_path, register_converter

from notifications.api import acting, queueing, reading
from notifications.http import by_method
from notifications.views import redirect_without_slash


class TaskIdConverter:
    """A task's id, with its letters as they are: it is compared as it is stored."""

    regex = "[0-9a-fA-F]{32}"

    def to_python(self, value: str) -> str:
        """The id."""
        return value

    def to_url(self, value: str) -> str:
        """The id."""
        return value


register_converter(TaskIdConverter, "task_id")

SLASHES = rf"^tasks(/bulk|/{TaskIdConverter.regex}(/(cancel|retry|run-now))?)?/+\Z"

urlpatterns = [
    path("tasks", by_method(GET=reading.list_tasks, POST=queueing.queue_task)),
    path("tasks/bulk", by_method(POST=queueing.queue_tasks)),
    path("tasks/<task_id:task_id>", by_method(GET=reading.show_task, DELETE=acting.delete)),
    path("tasks/<task_id:task_id>/cancel", by_method(POST=acting.cancel)),
    path("tasks/<task_id:task_id>/retry", by_method(POST=acting.retry)),
    path("tasks/<task_id:task_id>/run-now", by_method(POST=acting.run_now)),
    re_path(SLASHES.replace("(", "(?:"), redirect_without_slash),
]
