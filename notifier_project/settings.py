"""Every setting of the service. Its environment variables are listed in README.md and by `scripts/serve --help`.

A wrong value stops the start with a line that names the variable: see `_refuse`.
"""

import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import dj_database_url
from environs import Env, EnvError, ValidationError, validate

from notifier_project import (
    secret_key,
    sqlite_driver,  # noqa: F401 - before Django imports sqlite3
)

BASE_DIR = Path(__file__).resolve().parent.parent


class _Environment(Env):
    """The environment, in which an empty variable counts as unset."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        return super()._get_value(env_key, default) or default


def _refuse(variable: str, remedy: str) -> NoReturn:
    sys.exit(f"Wrong setting. {variable}: {remedy}")


def _path(variable: str, default: str) -> Path:
    """A path; a relative one is relative to the project, for web and workers alike."""
    try:
        return BASE_DIR / Path(env.str(variable, default)).expanduser()
    except RuntimeError as error:
        _refuse(variable, f"{error}; write the folder's name instead of ~")


def _are_host_names(values: list[str]) -> None:
    """Refuse what could never match a Host header, such as a URL."""
    for value in values:
        if not re.fullmatch(r"\*|\.?[\w.-]+|\[[0-9A-Fa-f:.]+\]", value):
            raise ValidationError(f"{value!r} is no host name; write names without scheme, port and path.")


def _database(url: str) -> dict[str, Any]:
    """The connection that a DATABASE_URL names; an empty one names SQLite in the data folder."""
    try:
        database: dict[str, Any] = dict(dj_database_url.parse(url)) if url else {"ENGINE": _SQLITE, "NAME": "db.sqlite3"}
    except (ValueError, KeyError) as error:
        _refuse("DATABASE_URL", f"can't be read ({error}); write postgres://user:password@host:5432/name or sqlite:///file")
    database["CONN_MAX_AGE"] = None
    if database["ENGINE"] == _SQLITE:
        if database["NAME"] in ("", ":memory:"):
            _refuse("DATABASE_URL", "web and workers can't share a database in memory; name a file: sqlite:///file")
        database["NAME"] = (BASE_DIR if url else DATA_DIR) / database["NAME"]
        database["TEST"] = {"NAME": DATA_DIR / "test.sqlite3"}  # a real file, as in production
        database["OPTIONS"] = {
            # Take the write lock at BEGIN: a transaction that reads first and then writes can't wait for it
            # (https://www.sqlite.org/lang_transaction.html).
            "transaction_mode": "IMMEDIATE",
            # NORMAL with WAL: a crash of any program loses nothing, a power cut may cost the last moments; FULL closes
            # that with an fsync for each commit (https://www.sqlite.org/pragma.html#pragma_synchronous).
            # The upkeep process brings the log into the database (durable_queue/store/sqlite/checkpoints.py), so that no
            # request has to wait for that; a commit does it only beyond 40,000 pages (160 MB), when upkeep has not.
            "init_command": f"PRAGMA journal_mode=WAL; PRAGMA synchronous={_SYNCHRONOUS[NOTIFIER_DURABILITY]};"
            "PRAGMA wal_autocheckpoint=40000",
            "timeout": 2,  # seconds to wait for another writer; after that a POST is answered with 503
        }
    elif database["ENGINE"] == _POSTGRESQL:
        if not database["NAME"]:
            _refuse("DATABASE_URL", "names no database; write postgres://user:password@host:5432/name")
        # After a restart of the server the admin's next request opens a new connection. A POST does so after one 503.
        database["CONN_HEALTH_CHECKS"] = True
        database["OPTIONS"] = {
            "connect_timeout": 2,
            "tcp_user_timeout": 10_000,
            # A server that is gone without a word is noticed after 11 s, and not after two hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "options": "-c statement_timeout=30s -c lock_timeout=2s",
        } | database.get("OPTIONS", {})
    else:
        _refuse("DATABASE_URL", "only postgres:// and sqlite:// databases are supported")
    return database


_SQLITE = "django.db.backends.sqlite3"
_POSTGRESQL = "django.db.backends.postgresql"
_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}

env = _Environment(eager=True)
try:
    # Where things are kept.
    DATA_DIR = _path("NOTIFIER_DATA_DIR", "var")
    NOTIFIER_LOG_FILE = _path("NOTIFIER_LOG_FILE", "log.txt")
    NOTIFIER_DURABILITY = env.str("NOTIFIER_DURABILITY", "process", validate=validate.OneOf(["process", "power"]))
    DATABASE_URL = env.str("DATABASE_URL", "")

    # What is served.
    HOST = env.str("HOST", "127.0.0.1")
    PORT = env.int("PORT", 8000, validate=validate.Range(1, 65535))
    NOTIFIER_ROOT = env.str("NOTIFIER_ROOT", "query", validate=validate.OneOf(["query", "basic"]))
    ALLOWED_HOSTS = env.list(
        "NOTIFIER_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"], subcast=str.strip, validate=_are_host_names
    )
    HTTPS = env.bool("NOTIFIER_HTTPS", False)

    # Who does the work, and for how long.
    NOTIFIER_WEB_WORKERS = env.int("NOTIFIER_WEB_WORKERS", 2, validate=validate.Range(1, 64))
    NOTIFIER_QUEUE_WORKERS = env.int("NOTIFIER_QUEUE_WORKERS", 2, validate=validate.Range(1, 256))
    NOTIFIER_STOP_GRACE = env.int("NOTIFIER_STOP_GRACE", 10, validate=validate.Range(1, 3600))
    NOTIFIER_HISTORY_DAYS = env.int("NOTIFIER_HISTORY_DAYS", 30, validate=validate.Range(1, 36500))

    # Signs sessions and queued tasks: who knows it can log in, and have the workers run code.
    SECRET_KEY = env.str("SECRET_KEY", "", validate=validate.Length(min=32))
except EnvError as error:
    said = re.sub(r"\['(.*)'\]", r"\1", str(error))
    sys.exit(f"Wrong setting. {said} `scripts/serve --help` says what it may be.")

try:
    DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    SECRET_KEY = SECRET_KEY or secret_key.read_or_create(DATA_DIR / "secret-key")
except OSError as error:
    _refuse("NOTIFIER_DATA_DIR", f"{error.strerror}: {error.filename}; name a folder that can be written to.")

DATABASES = {"default": _database(DATABASE_URL)}

DEBUG = False

INSTALLED_APPS = [
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

# For the admin; what clients send passes none of it: notifier_project/asgi.py
MIDDLEWARE = [
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

# The admin's files come straight from their packages: nothing to collect, so nothing that can be forgotten or stale.
STATIC_URL = "/static/"
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False

# Behind a proxy that speaks HTTPS and sets X-Forwarded-Proto.
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True

# Shared by every process of the installation, which the default cache (memory of one process) is not:
# django-q2 keeps what `qinfo` and `qmonitor` show in it, and cached results.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": DATA_DIR / "cache",
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},  # beyond it, entries are dropped at random: parts of an `Iter`, say
    }
}

# https://django-q2.readthedocs.io/en/master/configure.html and, below, durable_queue/conf.py
Q_CLUSTER = {
    "name": "notifier",
    "broker_class": "durable_queue.store.broker.Broker",
    "orm": "default",
    "ALT_CLUSTERS": {},
    "workers": NOTIFIER_QUEUE_WORKERS,
    "timeout": 60,  # seconds that one task may take
    "retry": 90,  # not used by our broker, whose leases don't run out; django-q2 wants it above the timeout
    "max_attempts": 10,
    "save_limit": 0,  # keep every result; old ones are pruned by age
    "recycle": 100_000,  # tasks after which a worker process is replaced
    "catch_up": False,
    "label": "Background tasks",
    "run_dir": DATA_DIR / "run",
    "grace": NOTIFIER_STOP_GRACE,
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
        # Refused requests are the client's concern: it has its 4xx.
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
