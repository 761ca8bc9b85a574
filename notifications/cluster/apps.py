"""The app's registration."""

from typing import Any

from django.apps import AppConfig
from django.core.checks import register

from notifications.cluster.identifiers import is_time_ordered, new_task_id


class ClusterConfig(AppConfig):
    """Runs what is queued."""

    name = "notifications.cluster"
    label = "cluster"
    verbose_name = "Workers"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks; give each task, however it is queued, an id that tells when."""
        from django_q.signals import pre_enqueue  # noqa: PLC0415 - its module needs the models to be loaded

        from notifications.cluster.checks import check_q_cluster, check_sqlite  # noqa: PLC0415

        register(check_q_cluster)
        register(check_sqlite)
        pre_enqueue.connect(_give_time_ordered_id, dispatch_uid="notifications.cluster")


def _give_time_ordered_id(task: dict[str, Any], **kwargs: Any) -> None:
    if not is_time_ordered(task["id"]):
        task["id"] = new_task_id()
