"""The app's registration."""

from types import ModuleType
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import Tags, register
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, post_save

from durable_queue.replacements import replace_once_imported
from durable_queue.task.identifiers import is_time_ordered, new_task_id


class DurableQueueConfig(AppConfig):
    """The queue, its workers and its admin pages."""

    name = "durable_queue"
    verbose_name = "Workers"
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        """Django makes this while it names the apps, before anybody can import a model, or `django_q.tasks`."""
        super().__init__(app_name, app_module)
        replace_once_imported()

    def ready(self) -> None:
        """Register the system checks, restore what `migrate` lost, give ids that tell their time, save schedules."""
        from django_q.signals import call_hook, pre_enqueue  # noqa: PLC0415 - its module needs the models to be loaded

        from durable_queue import checks  # noqa: PLC0415
        from durable_queue.schedule import saving  # noqa: PLC0415
        from durable_queue.schedule.checks import check_order, check_zone  # noqa: PLC0415
        from durable_queue.store.databases import close_if_read_only, widen_ids_after_migrate  # noqa: PLC0415
        from durable_queue.store.indexes import restore_after_migrate  # noqa: PLC0415
        from durable_queue.task.hooks import call_after_save  # noqa: PLC0415

        for check in (
            checks.check_q_cluster,
            checks.check_database,
            checks.check_time_zones,
            checks.check_sqlite,
            check_zone,
            check_order,
        ):
            register(check)
        for check in (checks.check_indexes, checks.check_ids, checks.check_queues, checks.check_clock):
            register(check, Tags.database)
        django_q = apps.get_app_config("django_q")
        for app in (self, django_q):  # after the later of the two, all tables exist
            post_migrate.connect(restore_after_migrate, sender=app, dispatch_uid="durable_queue")
        post_migrate.connect(widen_ids_after_migrate, sender=django_q, dispatch_uid="durable_queue: ids")
        saving.install()
        task = django_q.get_model("Task")
        post_save.disconnect(call_hook, sender=task)
        post_save.connect(call_after_save, sender=task, dispatch_uid="durable_queue: hooks")
        connection_created.connect(close_if_read_only, dispatch_uid="durable_queue")
        pre_enqueue.connect(_give_time_ordered_id, dispatch_uid="durable_queue")


def _give_time_ordered_id(task: dict[str, Any], **kwargs: Any) -> None:
    if not is_time_ordered(task["id"]):
        from durable_queue.waiting import queueing  # noqa: PLC0415 - it needs the models

        task["id"] = new_task_id()
        queueing.see(task)  # it comes from `async_task`: somebody may wait for it
