"""What the documentation says is so."""

import re
import subprocess
from pathlib import Path
from pydoc import locate

import pytest

from durable_queue import conf, models
from durable_queue.task.calls import MOVED
from durable_queue.upkeep import heartbeat
from durable_queue.work import attempt, lost_workers, pace, watch
from notifier_project import settings
from tests.support.processes import PROJECT

README = (PROJECT / "README.md").read_text()
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def help_text() -> str:
    """What `scripts/serve --help` prints."""
    return subprocess.run([PROJECT / "scripts/serve", "--help"], capture_output=True, text=True, check=True).stdout


def test_settings__readme_lists_what_help_lists() -> None:
    in_help = set(re.findall(r"^  ([A-Z_]+) ", help_text(), re.MULTILINE))
    in_readme = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert in_help == in_readme


def test_settings__readme_gives_the_defaults_that_help_gives() -> None:
    in_help = dict(re.findall(r"^  ([A-Z_]+) \((\S+)\) ", help_text(), re.MULTILINE))
    in_readme = dict(re.findall(r"^\| `([A-Z_]+)` \| `(\S+)` \|", README, re.MULTILINE))
    assert len(in_help) > 8
    assert {name: in_readme.get(name) for name in in_help} == in_help


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links__lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_names__of_files_and_modules_exist(page: Path) -> None:
    text = page.read_text()
    folders = "scripts|durable_queue|notifications|notifier_project|tests|benchmarks|docs"
    files = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    modules = set(re.findall(r"`((?:durable_queue|notifications|notifier_project)(?:\.\w+)+)`", text))
    missing = [name for name in files if not (PROJECT / name).exists()]
    for name in modules:
        parts = name.split(".")
        candidates = [Path(*parts[:length]) for length in (len(parts), len(parts) - 1)]
        if not any((PROJECT / path).is_dir() or (PROJECT / path.with_suffix(".py")).exists() for path in candidates):
            missing.append(name)
    assert not missing


def test_glossary__files_exist() -> None:
    rows = (PROJECT / "docs/glossary.md").read_text().splitlines()[8:]
    files = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row.split("|")[3])}
    assert len(files) > 20
    assert not [name for name in files if not ((PROJECT / "durable_queue" / name).exists() or (PROJECT / name).exists())]


def test_operations__lines_of_the_output_are_those_of_the_code() -> None:
    section = (PROJECT / "docs/operations.md").read_text().partition("## Monitoring")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (?:ERROR|WARNING|INFO) \|", section, re.MULTILINE)
    lines = [line for row in rows for line in re.findall("`([^`]+)`", row)]
    folders = ("durable_queue", "notifications", "notifier_project")
    code = "\n".join(path.read_text() for folder in folders for path in (PROJECT / folder).rglob("*.py"))
    messages = [re.sub(r"%[.\d]*[a-zX]|\{[^}]*\}", "…", text) for text in re.findall(r'"([^"\n]*)"', code)]
    assert len(lines) > 8
    assert not [line for line in lines if not any(message.startswith(line) for message in messages)]


def test_changelog__new_import_paths_lead_somewhere() -> None:
    section = (PROJECT / "CHANGELOG.md").read_text().partition("#### Old and new import paths")[2].partition("\n##")[0]
    paths = dict(re.findall(r"^\| `(notifications\.[\w.]+)`.* \| `(durable_queue\.[\w.]+)`", section, re.MULTILINE))
    assert len(paths) > 5
    assert not [path for path in paths.values() if locate(path) is None]
    assert MOVED.items() <= paths.items()


def test_queue__figures_are_those_of_the_code() -> None:
    text = (PROJECT / "docs/queue.md").read_text()
    own = conf.ClusterConf(run_dir=Path())
    attempts = settings.Q_CLUSTER["max_attempts"]
    assert f"`max_attempts` in `Q_CLUSTER` ({attempts})" in text
    assert f"`backoff_base` ({own.backoff_base:.0f} s)" in text
    assert f"`backoff_factor` ({own.backoff_factor:.0f})" in text
    assert f"`backoff_ceiling` ({own.backoff_ceiling:.0f} s)" in text
    assert f"up to {own.claim} new rows" in text
    assert f"at most the last {watch.SETTLE_AFTER * 1000:.0f} ms" in text
    assert f"If all threads are busy ({pace.SLOW_AFTER} s)" in " ".join(text.split())
    assert f"still running {attempt.LATE} s after its limit" in text
    assert f"{lost_workers.LOST_AFTER:.0f} seconds without one" in text
    assert f"looked at every {heartbeat.HEARTBEAT} seconds" in text
    for outcome in models.FailedAttempt.Outcome.values:
        assert f"| {outcome} |" in text
