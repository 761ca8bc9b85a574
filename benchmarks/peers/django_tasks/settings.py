"""django-tasks-db (https://github.com/RealOrangeOne/django-tasks-db#readme)."""

from database import databases

SECRET_KEY = "benchmark"  # noqa: S105 - nobody else's
USE_TZ = True
DATABASES = databases()
INSTALLED_APPS = ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["default"]}}
