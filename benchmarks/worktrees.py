"""Other revisions of the project, checked out for as long as they are needed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import PROJECT

WORKTREES = PROJECT / "var" / "bench" / "worktrees"


def git(*words: str) -> str:
    """What git answers."""
    done = subprocess.run(["git", *words], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S607
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)} failed")
    return done.stdout.strip()


def commit_of(revision: str) -> str:
    """Its full hash."""
    return git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A revision, checked out for as long as it is needed."""
    commit = commit_of(revision)
    folder = WORKTREES / f"{git('log', '-1', '--format=%h', commit)}-{os.getpid()}"
    try:
        git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        install(folder)
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # it follows no link, so .venv is safe
        git("worktree", "prune")


def install(folder: Path) -> None:
    """Give a worktree this tree's environment, if that has what it requires, or else one of its own.

    It is the comparison that scripts/install makes, which the worktree's scripts/serve calls: where they share an
    environment, that finds nothing to do.
    """
    environment, lists = PROJECT / ".venv", sorted(folder.glob("requirements*.txt"))
    installed = [environment / f"installed-{path.name}" for path in lists]
    if all(copy.exists() and copy.read_bytes() == path.read_bytes() for path, copy in zip(lists, installed, strict=True)):
        (folder / ".venv").symlink_to(environment)
        return
    print("Its requirements are not those of this tree: it gets an environment of its own.", file=sys.stderr, flush=True)
    env = os.environ | {"PYTHON": os.path.realpath(sys.executable)}  # the same Python, outside of any environment
    subprocess.run([folder / "scripts" / "install", *(path.name for path in lists)], env=env, check=True)
