"""A data folder of version 0.1 goes on with this version: each write that it knew of, and each task in flight, once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import environment, selection
from tests.support.installations import database, execute, new_installation, queue_table
from tests.support.processes import manage, queue_workers, wait_until

pytestmark = selection.slow

# Made by that version: a task of two calls whose second has written and failed, both keys trimmed to their places; one whose
# worker was killed after its write; one that nobody has begun. All rows of the tables that matter, the journal and the log.
FOLDER = Path(__file__).parent / "fixtures" / "data-folder-0.1"


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation that was left by version 0.1."""
    with new_installation(tmp_path) as env:
        env |= {
            "DJANGO_SETTINGS_MODULE": "tests.support.writing_settings",
            "SECRET_KEY": "the secret key of a data folder of version 0.1",
        }
        manage("migrate", "durable_queue", "0005_lease_without_index", env=env)
        execute(env, "DELETE FROM django_migrations WHERE app = 'durable_queue'")  # which replaced those of `cluster`
        tables = json.loads((FOLDER / "tables.json").read_text())
        fill(env, tables)
        journal = Path(env["NOTIFIER_DATA_DIR"]) / "journal" / "ee2641a402572974-log.txt"
        journal.parent.mkdir(parents=True)
        journal.write_bytes((FOLDER / "journal").read_bytes())
        Path(env["NOTIFIER_LOG_FILE"]).write_bytes((FOLDER / "log.txt").read_bytes())
        yield env


def fill(env: dict[str, str], tables: dict[str, list[dict[str, Any]]]) -> None:
    """Put the rows into the installation's database."""
    on_sqlite = environment.DATABASE == "sqlite"
    with database(env) as connection:
        for table, rows in tables.items():
            for row in rows:
                values = [bool(value) if name == "success" and not on_sqlite else value for name, value in row.items()]
                connection.execute(insert(table, row, "?" if on_sqlite else "%s"), values)
            if rows and isinstance(rows[0]["id"], int) and not on_sqlite:
                connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")  # noqa: S608


def insert(table: str, row: dict[str, Any], mark: str) -> str:
    """The statement that inserts a row."""
    names = ", ".join(f'"{name}"' for name in row)
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join([mark] * len(row))})"  # noqa: S608


def test_upgrade__retries_and_tasks_in_flight(env: dict[str, str], tmp_path: Path) -> None:
    log = Path(env["NOTIFIER_LOG_FILE"])
    assert log.read_text() == "pending: first call\npending: second call\nin flight\n"
    manage("migrate", env=env)
    marks = Path(env["NOTIFIER_DATA_DIR"]) / "marks"
    marks.mkdir()
    (marks / "allowed").touch()
    with queue_workers(env=env, output=tmp_path / "output"), queue_table(env) as table:
        wait_until(lambda: table.waiting() == 0, timeout=40, what="all tasks of the old version are done")
    assert log.read_text().splitlines() == [
        "pending: first call",
        "pending: second call",
        "in flight",
        "queued: first call",
        "queued: second call",
    ]
    assert (tmp_path / "output").read_text().count("it stood in the log already") == 3
