"""Tables, content types and permissions under the app's present name; until version 0.2 it was `cluster`.

The migrations before this one each replace the one of that name in the old app: whatever a database has of them counts as
applied, and what it lacks is applied first. A new database goes the same way, so that both end with the same schema.
"""

from datetime import timedelta

from django.apps.registry import Apps
from django.core.management import CommandError
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils import timezone

from durable_queue.work import kernel

OLD, NEW = "cluster", "durable_queue"
MODELS = {"attempt": "failedattempt", "deadletter": "deadletter", "note": "note", "worker": "worker"}  # old and new names
SILENT = timedelta(seconds=9)  # a worker of another host that has not been heard of for so long is dead


def refuse_beside_workers(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Raise CommandError when a worker lives: it would find its tables gone, and lose its lease."""
    workers = apps.get_model(NEW, "Worker").objects.using(schema_editor.connection.alias)
    here, now = kernel.host_id(), timezone.now()
    alive = []
    for worker in workers.order_by("pk"):
        is_alive = kernel.is_alive(worker.pid, worker.born) if worker.host == here else None
        if worker.heartbeat > now - SILENT if is_alive is None else is_alive:
            alive.append(f"{worker.pid} on {worker.host}")
    if alive:
        raise CommandError(f"Stop the workers first, then migrate again; these are running: {', '.join(alive)}.")


def rename_content_types(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Keep users' permissions and the admin's log, which hang on them."""
    for old, new in MODELS.items():
        _rename(apps, schema_editor, (OLD, old), (NEW, new))


def restore_content_types(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """The reverse."""
    for old, new in MODELS.items():
        _rename(apps, schema_editor, (NEW, new), (OLD, old))


def _rename(apps: Apps, schema_editor: BaseDatabaseSchemaEditor, old: tuple[str, str], new: tuple[str, str]) -> None:
    try:
        types = apps.get_model("contenttypes", "ContentType").objects.using(schema_editor.connection.alias)
    except LookupError:
        return  # contenttypes is not installed
    if not types.filter(app_label=new[0], model=new[1]).exists():
        types.filter(app_label=old[0], model=old[1]).update(app_label=new[0], model=new[1])


class Migration(migrations.Migration):
    dependencies = [("durable_queue", "0007_note")]

    operations = [
        migrations.RunPython(refuse_beside_workers, refuse_beside_workers),
        migrations.RenameModel("Attempt", "FailedAttempt"),
        *(migrations.AlterModelTable(name=name, table=None) for name in MODELS.values()),
        migrations.RunPython(rename_content_types, restore_content_types),
    ]
