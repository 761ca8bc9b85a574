"""Prepare the service, then become the parent of its processes. `scripts/serve` ends by running this.

When the service can't start, one line gives the reason and the remedy.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # The service may be stopped from here on. Not by sys.exit: some imports and callbacks would swallow its exception.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

import errno
import fcntl
import ipaddress
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

import django
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection, connections

from notifier_project import settings

PASSWORD_FILE = settings.DATA_DIR / "admin-password"
PORT_WAIT_SECONDS = 3.0  # for the web processes of a killed parent, which the kernel kills with it, to let go of the port
DATABASE_WAIT_SECONDS = 60.0  # for the database's server: at a boot it may start later than this
COMING_UP = ("starting up", "shutting down", "recovery", "not yet accepting")  # what a server says that will be there soon
BACKLOG = 2048  # connections that may wait to be accepted; uvicorn's default
STOP_MARGIN_SECONDS = 10  # after the grace, before the parent kills a program that did not stop


def main() -> None:
    """Prepare the service, then become its parent."""
    open_standard_descriptors()
    os.environ["DJANGO_SETTINGS_MODULE"] = settings.__name__
    lock = take_lock(settings.DATA_DIR / "lock")
    with listen(settings.HOST, settings.PORT) as listener:
        user = prepare()
        set_environment(listener, lock, user)
        keep_only(listener.fileno(), lock)
        # Replace this program: the parent does not need the modules that were loaded here, some 40 MB.
        program = [sys.executable, "-m", "notifier_project.service.parent"]
        os.execv(program[0], program)  # noqa: S606


def open_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed: else the next file would have the number, and what is printed go into it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - in, out and error
        pass
    os.close(descriptor)


def keep_only(*descriptors: int) -> None:
    """Let the parent inherit these descriptors, and no others that the caller of this program may have left open."""
    for descriptor in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # the descriptor of /dev/fd itself is closed by now
            os.set_inheritable(descriptor, descriptor < 3 or descriptor in descriptors)  # noqa: PLR2004 - in, out and error


def prepare() -> str:
    """Prepare the database. Return the name of the admin's first user."""
    django.setup()
    stop_on_errors()
    try:
        wait_for_database()
        wait_for_other_hosts()
        call_command("migrate", verbosity=0, skip_checks=True)
        user = first_superuser()
    except DatabaseError as error:
        sys.exit(f"DATABASE_URL: the database can't be used: {' '.join(str(error).split())}")
    except CommandError as error:  # a migration refuses, and gives the reason
        sys.exit(str(error))
    connections.close_all()
    return user


def take_lock(path: Path) -> int:
    """Lock the data folder for as long as this process lives. Return the lock's descriptor."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        sys.exit(f"NOTIFIER_DATA_DIR: {error.strerror}: {path}; name a folder that can be written to.")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode().strip()
        sys.exit(
            f"NOTIFIER_DATA_DIR: {path.parent} is in use by the service that runs as process {holder}; "
            "stop that one, or name another folder (and PORT)."
        )
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def listen(host: str, port: int) -> socket.socket:
    """Listen on the address that `host` stands for. Clients wait until a process answers."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        sys.exit(f"HOST: there is no address {host!r}; name one of this machine, such as 127.0.0.1")
    deadline = time.monotonic() + PORT_WAIT_SECONDS
    while True:
        try:
            return socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                sys.exit(f"HOST: {host} is not an address of this machine; name one that is, such as 127.0.0.1")
            if error.errno != errno.EADDRINUSE:
                sys.exit(f"PORT: {error.strerror}: {port}; choose another")
            if time.monotonic() > deadline:
                sys.exit(f"PORT: {port} is in use by another program; choose another")
        time.sleep(0.1)


def stop_on_errors() -> None:
    """Run Django's system checks. Exit when one of them finds an error."""
    errors = [message for message in checks.run_checks() if message.is_serious()]
    if errors:
        sys.exit("\n".join(f"{error.msg} {error.hint or ''}".strip() for error in errors))


def wait_for_database() -> None:
    """Wait while the database's server is not there yet; raises django.db.OperationalError once that has taken too long."""
    deadline = time.monotonic() + DATABASE_WAIT_SECONDS
    is_told = False
    while connection.vendor == "postgresql":
        try:
            connection.ensure_connection()
        except OperationalError as error:
            what = " ".join(str(error).split())
            is_refused = "FATAL" in what and not any(words in what for words in COMING_UP)  # libpq has no code for it
            if is_refused or time.monotonic() > deadline:
                raise
            if not is_told:
                is_told = True
                sys.stdout.write(f"Waiting up to {DATABASE_WAIT_SECONDS:.0f} s for the database: {what}\n")
                sys.stdout.flush()
            time.sleep(0.5)
        else:
            return


def wait_for_other_hosts() -> None:
    """Wait while another host migrates the same PostgreSQL. Other hosts then wait until this connection is closed."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Long timeouts: another host may be migrating, and building an index of a long history takes time.
            cursor.execute("SET lock_timeout = '5min'; SET statement_timeout = 0")
            cursor.execute("SELECT pg_advisory_lock(hashtext('notifier: migrate'))")


def first_superuser() -> str:
    """The name of the admin's first user. The first start creates it. Raises django.db.DatabaseError."""
    users = get_user_model().objects
    if user := users.filter(is_superuser=True).order_by("pk").first():
        return user.get_username()
    name = os.environ.get("DJANGO_SUPERUSER_USERNAME") or "admin"
    if users.filter(username=name).exists():
        sys.exit(f"DJANGO_SUPERUSER_USERNAME: the user {name} exists and is not a superuser; choose another name")
    PASSWORD_FILE.unlink(missing_ok=True)
    password = os.environ.get("DJANGO_SUPERUSER_PASSWORD")
    if not password:
        password = secrets.token_urlsafe(18)
        # Before the user is created: if the start is interrupted here, the next one makes a new password.
        with os.fdopen(os.open(PASSWORD_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password + "\n")
    users.create_superuser(username=name, password=password)
    return name


def ready_message(address: str, user: str) -> str:
    """The message that is printed once the service answers."""
    ip = ipaddress.ip_address(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{ip}]" if ip.version == 6 else address)  # noqa: S104, PLR2004
    url = f"http://{host}:{settings.PORT}"
    password = f"the password is in {PASSWORD_FILE}" if PASSWORD_FILE.exists() else "with the password that you chose"
    lines = [
        f"Notifier is ready: {url}",
        f"  try it    curl -X POST {url}/send-notification/alice@example.com",
        f"  the file  {settings.NOTIFIER_LOG_FILE}",
        f"  admin     {url}{settings.ADMIN_PATH}/ as {user}; {password}",
        "  stop it   Ctrl-C",
    ]
    if not ip.is_loopback:
        hosts = ", ".join(settings.ALLOWED_HOSTS)
        lines.append(
            f"  beware    HOST={settings.HOST}: other machines can post, to the hosts in NOTIFIER_ALLOWED_HOSTS ({hosts})"
        )
    return "\n".join(lines) + "\n"


def set_environment(listener: socket.socket, lock: int, user: str) -> None:
    """Set the variables that the parent reads."""
    os.environ |= {
        "NOTIFIER_WEB_WORKERS": str(settings.NOTIFIER_WEB_WORKERS),
        "WEB_SOCKET": str(listener.fileno()),
        "LOCK": str(lock),
        "STOP_LIMIT": str(settings.NOTIFIER_STOP_GRACE + STOP_MARGIN_SECONDS),
        "READY_MESSAGE": ready_message(listener.getsockname()[0], user),
    }


if __name__ == "__main__":
    main()
