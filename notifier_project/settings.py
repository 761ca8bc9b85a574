"""Every setting of the service. README.md and `scripts/serve --help` list the environment variables.

A wrong value stops the start with a line that names the variable: see `values.refuse`.
"""

import re
import sys
from pathlib import Path
from typing import Any

from environs import Env, EnvError, validate

from notifier_project import database, secret_key, values

BASE_DIR = Path(__file__).resolve().parent.parent


class _Environment(Env):
    """The environment. An empty variable counts as unset."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        return super()._get_value(env_key, default) or default


def _path(variable: str, default: str) -> Path:
    """A path. A relative one starts at the project's folder, for web processes and workers alike."""
    try:
        return BASE_DIR / Path(env.str(variable, default)).expanduser()
    except RuntimeError as error:
        values.refuse(variable, f"{error}; write the folder's name instead of ~")


def _optional_path(variable: str) -> Path | None:
    """A path, or None where none is set."""
    return _path(variable, "") if env.str(variable, "") else None


LOOPBACK = ["127.0.0.0/8", "::1"]

env = _Environment(eager=True)
try:
    # Where the service keeps its data.
    DATA_DIR = _path("NOTIFIER_DATA_DIR", "var")
    NOTIFIER_LOG_FILE = _path("NOTIFIER_LOG_FILE", "log.txt")
    NOTIFIER_DURABILITY = env.str("NOTIFIER_DURABILITY", "process", validate=validate.OneOf(["process", "power"]))
    DATABASE_URL = env.str("DATABASE_URL", "")

    # What it serves.
    HOST = env.str("HOST", "127.0.0.1")
    PORT = env.int("PORT", 8000, validate=validate.Range(1, 65535))
    NOTIFIER_ROOT = env.str("NOTIFIER_ROOT", "query", validate=validate.OneOf(["query", "basic"]))
    ALLOWED_HOSTS = env.list(
        "NOTIFIER_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"], subcast=str.strip, validate=values.are_host_names
    )
    HTTPS = env.bool("NOTIFIER_HTTPS", False)
    NOTIFIER_TRUSTED_PROXIES = env.list("NOTIFIER_TRUSTED_PROXIES", LOOPBACK, subcast=str.strip, validate=values.are_networks)
    CSRF_TRUSTED_ORIGINS = env.list("NOTIFIER_TRUSTED_ORIGINS", [], subcast=str.strip, validate=values.are_origins)

    # Who may do what over HTTP, and how much: notifier_project/access/
    NOTIFIER_TOKENS_FILE = _optional_path("NOTIFIER_TOKENS_FILE")
    NOTIFIER_MAX_BACKLOG = env.int("NOTIFIER_MAX_BACKLOG", None, validate=validate.Range(1, 1_000_000_000))
    NOTIFIER_MIN_FREE_DISK = env.int("NOTIFIER_MIN_FREE_DISK", None, validate=validate.Range(1, 1_000_000_000))
    NOTIFIER_RATE_LIMIT = env.str("NOTIFIER_RATE_LIMIT", "", validate=values.is_rate)

    # How many processes there are, and how long a task, a stop and the history last.
    NOTIFIER_WEB_WORKERS = env.int("NOTIFIER_WEB_WORKERS", 2, validate=validate.Range(1, 64))
    NOTIFIER_QUEUE_WORKERS = env.int("NOTIFIER_QUEUE_WORKERS", 2, validate=validate.Range(1, 256))
    NOTIFIER_QUEUE_THREADS = env.int("NOTIFIER_QUEUE_THREADS", 40, validate=validate.Range(1, 1000))
    NOTIFIER_QUEUE_COROUTINES = env.int("NOTIFIER_QUEUE_COROUTINES", 1000, validate=validate.Range(1, 100_000))
    NOTIFIER_TASK_TIMEOUT = env.int("NOTIFIER_TASK_TIMEOUT", 60, validate=validate.Range(1, 86_400))
    NOTIFIER_STOP_GRACE = env.int("NOTIFIER_STOP_GRACE", 10, validate=validate.Range(1, 3600))
    NOTIFIER_IDEMPOTENCY_HOURS = env.int("NOTIFIER_IDEMPOTENCY_HOURS", 24, validate=validate.Range(1, 8760))
    NOTIFIER_HISTORY_DAYS = env.int("NOTIFIER_HISTORY_DAYS", 30, validate=validate.Range(1, 36500))

    # Whose clock schedules follow, unless they have a zone of their own; by default that of TIME_ZONE, as the admin's times.
    NOTIFIER_TIME_ZONE = env.str("NOTIFIER_TIME_ZONE", "", validate=values.is_time_zone)

    # Signs sessions and payloads. With it, an attacker can log in, and make the workers run any code.
    SECRET_KEY = env.str("SECRET_KEY", "", validate=validate.Length(min=32))
except EnvError as error:
    said = re.sub(r"\['(.*)'\]", r"\1", str(error))
    sys.exit(f"Wrong setting. {said} `scripts/serve --help` says what it may be.")

try:
    DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    SECRET_KEY = SECRET_KEY or secret_key.read_or_create(DATA_DIR / "secret-key")
except OSError as error:
    values.refuse("NOTIFIER_DATA_DIR", f"{error.strerror}: {error.filename}; name a folder that can be written to.")

DATABASES = {
    "default": database.of(DATABASE_URL, base_folder=BASE_DIR, data_folder=DATA_DIR, durability=NOTIFIER_DURABILITY),
}

DEBUG = False

INSTALLED_APPS = [
    "notifier_project",
    "notifications",
    "durable_queue",
    "django_q",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

# Only for the admin. Clients' requests pass no middleware: notifier_project/asgi.py
MIDDLEWARE = [
    "notifier_project.people.database_watch",
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "notifier_project.urls"
ASGI_APPLICATION = "notifier_project.asgi.application"
ADMIN_PATH = "/admin"
APPEND_SLASH = False  # the routes answer a trailing slash as FastAPI does: notifications/urls.py

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

# The admin's static files are served from their packages: without `collectstatic`, they can't be missing or stale.
STATIC_URL = "/static/"
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False

# Behind a proxy that speaks HTTPS and sets X-Forwarded-Proto. Django does not read that header (SECURE_PROXY_SSL_HEADER): a
# stranger could send it. notifier_project/access/proxies.py does, and knows whom to believe.
if HTTPS:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
CSRF_FAILURE_VIEW = "notifier_project.forms.csrf_failure"

# All processes of the installation share this cache. django-q2 keeps cached results in it, and the figures that `qinfo` and
# `qmonitor` show. Django's default cache would be in the memory of one process.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": DATA_DIR / "cache",
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},  # beyond it, Django drops entries at random, such as parts of an `Iter`
    }
}

# https://django-q2.readthedocs.io/en/master/configure.html and, below, durable_queue/conf.py
Q_CLUSTER = {
    "name": "notifier",
    "broker_class": "durable_queue.store.broker.Broker",
    "orm": "default",
    "ALT_CLUSTERS": {},
    "workers": NOTIFIER_QUEUE_WORKERS,
    "threads": NOTIFIER_QUEUE_THREADS,
    "coroutines": NOTIFIER_QUEUE_COROUTINES,
    "timeout": NOTIFIER_TASK_TIMEOUT,
    "retry": NOTIFIER_TASK_TIMEOUT + 30,  # unused, because leases don't expire; django-q2 requires it to be above the timeout
    "max_attempts": 10,
    "save_limit": 0,  # keep every result; pruning deletes old ones by their age
    "recycle": 100_000,  # tasks after which a worker process is replaced
    "catch_up": False,
    "label": "Background tasks",
    "run_dir": DATA_DIR / "run",
    "grace": NOTIFIER_STOP_GRACE,
    "max_backlog": NOTIFIER_MAX_BACKLOG,
    "idempotency_hours": NOTIFIER_IDEMPOTENCY_HOURS,
    "history_days": NOTIFIER_HISTORY_DAYS,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": [], "propagate": True},
        "notifications": {"level": "INFO"},
        "durable_queue.verbs": {"level": "INFO"},
        # A refused request concerns only the client, which has its 4xx.
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
