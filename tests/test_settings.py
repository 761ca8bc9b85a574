"""notifier_project/settings.py: what environment variables do, right and wrong; and that `scripts/serve --help` tells."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import selection
from tests.support.processes import PROJECT

pytestmark = selection.once

SERVE = str(PROJECT / "scripts" / "serve")
TELL = """
import json
from notifier_project import settings
print(json.dumps({name: getattr(settings, name) for name in dir(settings) if name.isupper()}, default=str))
"""


def load(env: Mapping[str, str], folder: Path, program: str = TELL) -> subprocess.CompletedProcess[str]:
    """What a new process makes of these variables; its data folder is in `folder`, if nothing else is said."""
    own = {"NOTIFIER_DATA_DIR": str(folder / "var"), "NOTIFIER_LOG_FILE": "", "DATABASE_URL": ""}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | own | dict(env),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def settings_of(env: Mapping[str, str], folder: Path) -> dict[str, Any]:
    result = load(env, folder)
    assert result.returncode == 0, result.stderr
    settings: dict[str, Any] = json.loads(result.stdout)
    return settings


# Wrong values.


@pytest.mark.parametrize(
    ("variable", "value"),
    selection.slow_after(
        12,
        [
            ("PORT", "http"),
            ("PORT", "0"),
            ("PORT", "65536"),
            ("NOTIFIER_ROOT", "Basic"),
            ("NOTIFIER_DURABILITY", "disk"),
            ("NOTIFIER_ALLOWED_HOSTS", "https://example.com"),
            ("NOTIFIER_ALLOWED_HOSTS", "example.com:8000"),
            ("NOTIFIER_ALLOWED_HOSTS", "example.com,"),
            ("NOTIFIER_HTTPS", "maybe"),
            ("NOTIFIER_TRUSTED_PROXIES", "*"),
            ("NOTIFIER_TRUSTED_PROXIES", "10.0.0.1/8"),
            ("NOTIFIER_TRUSTED_PROXIES", "proxy.example.com"),
            ("NOTIFIER_TRUSTED_ORIGINS", "notify.example.com"),
            ("NOTIFIER_TRUSTED_ORIGINS", "https://notify.example.com/"),
            ("NOTIFIER_TRUSTED_ORIGINS", "https://a.example,"),
            ("NOTIFIER_TOKENS_FILE", "~nobody-of-this-name/tokens"),
            ("NOTIFIER_MAX_BACKLOG", "0"),
            ("NOTIFIER_MAX_BACKLOG", "many"),
            ("NOTIFIER_MIN_FREE_DISK", "1GB"),
            ("NOTIFIER_MIN_FREE_DISK", "-1"),
            ("NOTIFIER_RATE_LIMIT", "100"),
            ("NOTIFIER_RATE_LIMIT", "0/s"),
            ("NOTIFIER_RATE_LIMIT", "1.5/s"),
            ("NOTIFIER_RATE_LIMIT", "100/d"),
            ("NOTIFIER_WEB_WORKERS", "0"),
            ("NOTIFIER_WEB_WORKERS", "many"),
            ("NOTIFIER_QUEUE_WORKERS", "0"),
            ("NOTIFIER_QUEUE_WORKERS", "1.5"),
            ("NOTIFIER_TASK_TIMEOUT", "0"),
            ("NOTIFIER_TASK_TIMEOUT", "1m"),
            ("NOTIFIER_STOP_GRACE", "-1"),
            ("NOTIFIER_STOP_GRACE", "10s"),
            ("NOTIFIER_IDEMPOTENCY_HOURS", "0"),
            ("NOTIFIER_HISTORY_DAYS", "0"),
            ("NOTIFIER_HISTORY_DAYS", "ever"),
            ("NOTIFIER_TIME_ZONE", "Europe/Nowhere"),
            ("NOTIFIER_TIME_ZONE", "Europe"),
            ("NOTIFIER_TIME_ZONE", "../etc"),
            ("NOTIFIER_DATA_DIR", "/dev/null"),
            ("NOTIFIER_DATA_DIR", "/dev/null/var"),
            ("NOTIFIER_DATA_DIR", "~nobody-of-this-name/var"),
            ("NOTIFIER_LOG_FILE", "~nobody-of-this-name/log.txt"),
            ("SECRET_KEY", "short"),
            ("DATABASE_URL", "db.sqlite3"),
            ("DATABASE_URL", "oracle-of-delphi://host/name"),
            ("DATABASE_URL", "mysql://host/name"),
            ("DATABASE_URL", "postgres://host:port/name"),
            ("DATABASE_URL", "postgres://host"),
            ("DATABASE_URL", "sqlite://"),
            ("DATABASE_URL", "sqlite://:memory:"),
        ],
    ),
)
def test_settings__wrong_value(tmp_path: Path, variable: str, value: str) -> None:
    result = load({variable: value}, tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Wrong setting. ")
    assert variable in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


# Right ones.


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
def test_settings__durability_reaches_sqlite(tmp_path: Path, durability: str, synchronous: int) -> None:
    ask = "import django; django.setup(); from django.db import connection as c; cursor = c.cursor();"
    ask += "cursor.execute('PRAGMA synchronous'); print(cursor.fetchone()[0])"
    result = load({"NOTIFIER_DURABILITY": durability}, tmp_path, ask)
    assert result.stdout == f"{synchronous}\n", result.stderr


def test_settings__empty_counts_as_unset(tmp_path: Path) -> None:
    empty = dict.fromkeys(variables_in_help(), "") | {"NOTIFIER_DATA_DIR": str(tmp_path / "var")}
    settings = settings_of(empty, tmp_path)
    assert (settings["HOST"], settings["PORT"], settings["NOTIFIER_ROOT"]) == ("127.0.0.1", 8000, "query")
    assert settings["NOTIFIER_LOG_FILE"] == str(PROJECT / "log.txt")
    assert settings["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1", "[::1]"]
    assert len(settings["SECRET_KEY"]) >= 50


@pytest.mark.parametrize(
    ("value", "path"),
    [
        pytest.param("folder/log.txt", PROJECT / "folder" / "log.txt", id="relative to the project"),
        pytest.param("/folder/log.txt", Path("/folder/log.txt"), id="absolute"),
        pytest.param("~/log.txt", Path("~/log.txt").expanduser(), id="at home"),
        pytest.param("log {{x}} 100% ü.txt", PROJECT / "log {{x}} 100% ü.txt", id="odd characters"),
    ],
)
def test_settings__path(tmp_path: Path, value: str, path: Path) -> None:
    assert settings_of({"NOTIFIER_LOG_FILE": value}, tmp_path)["NOTIFIER_LOG_FILE"] == str(path)


@pytest.mark.parametrize(
    ("url", "engine", "parts"),
    [
        ("", "sqlite3", {"NAME": "{data}/db.sqlite3"}),
        ("sqlite:///file.db", "sqlite3", {"NAME": f"{PROJECT}/file.db"}),
        ("sqlite:////folder/file.db", "sqlite3", {"NAME": "/folder/file.db"}),
        (
            "postgres://olivia:s%23cret@db.example.com:6432/notes",
            "postgresql",
            {"NAME": "notes", "USER": "olivia", "PASSWORD": "s#cret", "HOST": "db.example.com", "PORT": 6432},
        ),
        ("postgresql:///notes", "postgresql", {"NAME": "notes", "HOST": ""}),
    ],
)
def test_settings__database_url(tmp_path: Path, url: str, engine: str, parts: dict[str, Any]) -> None:
    database = settings_of({"DATABASE_URL": url}, tmp_path)["DATABASES"]["default"]
    expected = {key: value.format(data=tmp_path / "var") if key == "NAME" else value for key, value in parts.items()}
    assert database["ENGINE"] == f"django.db.backends.{engine}"
    assert {key: database[key] for key in parts} == expected


def test_settings__database_options_are_added(tmp_path: Path) -> None:
    url = "postgres://db.example.com/notes?sslmode=require"
    options = settings_of({"DATABASE_URL": url}, tmp_path)["DATABASES"]["default"]["OPTIONS"]
    assert options["sslmode"] == "require"
    assert options["connect_timeout"] == 2


def test_settings__allowed_hosts(tmp_path: Path) -> None:
    settings = settings_of({"NOTIFIER_ALLOWED_HOSTS": "example.com, .example.org,10.0.0.1,[::1],*"}, tmp_path)
    assert settings["ALLOWED_HOSTS"] == ["example.com", ".example.org", "10.0.0.1", "[::1]", "*"]


def test_settings__access(tmp_path: Path) -> None:
    unset = settings_of({}, tmp_path)
    assert unset["NOTIFIER_TRUSTED_PROXIES"] == ["127.0.0.0/8", "::1"]
    assert [unset[f"NOTIFIER_{name}"] for name in ("TOKENS_FILE", "MAX_BACKLOG", "MIN_FREE_DISK")] == [None] * 3
    given = settings_of(
        {
            "NOTIFIER_TRUSTED_PROXIES": "10.0.0.2, 10.1.0.0/16,2001:db8::/32",
            "NOTIFIER_TRUSTED_ORIGINS": "https://a.example,http://[::1]:8000, https://*.b.example",
            "NOTIFIER_TOKENS_FILE": "tokens",
            "NOTIFIER_MAX_BACKLOG": "1000",
        },
        tmp_path,
    )
    assert given["NOTIFIER_TRUSTED_PROXIES"] == ["10.0.0.2", "10.1.0.0/16", "2001:db8::/32"]
    assert given["CSRF_TRUSTED_ORIGINS"] == ["https://a.example", "http://[::1]:8000", "https://*.b.example"]
    assert given["NOTIFIER_TOKENS_FILE"] == str(PROJECT / "tokens")
    assert given["Q_CLUSTER"]["max_backlog"] == 1000


def test_settings__debug_is_off(tmp_path: Path) -> None:
    assert settings_of({"DEBUG": "true"}, tmp_path)["DEBUG"] is False


# The secret key.


def test_secret_key__given(tmp_path: Path) -> None:
    key = "k" * 32
    assert settings_of({"SECRET_KEY": key}, tmp_path)["SECRET_KEY"] == key
    assert not (tmp_path / "var" / "secret-key").exists()


def test_secret_key__many_processes_at_once(tmp_path: Path) -> None:
    program = "import os, sys, pathlib; from notifier_project import secret_key as k; os.read(0, 1); "
    program += "print(k.read_or_create(pathlib.Path(sys.argv[1])))"
    path = tmp_path / "secret-key"
    start, go = os.pipe()
    processes = [
        subprocess.Popen([sys.executable, "-c", program, path], stdin=start, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        for _ in range(8)
    ]
    os.write(go, b"!" * len(processes))
    keys = {process.communicate(timeout=30)[0].strip() for process in processes}
    os.close(start)
    os.close(go)
    assert keys == {path.read_text()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret-key"]


# Security.


CHECK = """
import django
from django.core.checks import run_checks
django.setup()
print(*(message.id for message in run_checks(include_deployment_checks=True)))
"""


def test_check_deploy__behind_https(tmp_path: Path) -> None:
    # Left is what the proxy decides: whether all of the host is HTTPS (HSTS, and a redirect to it).
    said = load({"NOTIFIER_HTTPS": "true", "NOTIFIER_LOG_FILE": str(tmp_path / "log.txt")}, tmp_path, CHECK)
    assert sorted(said.stdout.split()) == ["security.W004", "security.W008"], said.stderr


# What people are told.


def variables_in_help() -> list[str]:
    said = subprocess.run([SERVE, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    return re.findall(r"^  ([A-Z_]+)\b", said, re.MULTILINE)


def test_help__lists_the_variables_that_are_read() -> None:
    folder = PROJECT / "notifier_project"
    source = (folder / "settings.py").read_text() + (folder / "service" / "serve.py").read_text()
    read = re.findall(r'(?:env\.\w+|_path|environ\.get)\(\s*"([A-Z_]+)"', source)
    listed = variables_in_help()
    assert set(listed) == set(read) - {"PATH"}
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("arguments", [["--port", "80"], ["start"], ["--help", "me"]], ids=str)
def test_serve__unknown_argument(arguments: list[str]) -> None:
    result = subprocess.run([SERVE, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
