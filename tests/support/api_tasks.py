"""Tasks that clients of the API look at: they end when a test says so."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from durable_queue import retry


def hold(go: str, result: Any = None) -> Any:
    """Begin, and return once the file `go` is there."""
    Path(go).with_suffix(".begun").touch()
    while not Path(go).exists():
        time.sleep(0.005)
    return result


def give(value: Any = None) -> Any:
    """Return the value."""
    return value


@retry(base=600)
def fail_for_long(folder: str) -> NoReturn:
    """Fail, with a next attempt that no test waits for."""
    raise IsADirectoryError(21, "Is a directory", f"{folder}/log.txt")


@retry(attempts=1)
def fail_for_good() -> NoReturn:
    """Fail, and never again."""
    raise ValueError("two\nlines")


@retry(attempts=1)
def fail_without(go: str) -> None:
    """Fail for good, unless the file `go` is there."""
    if not Path(go).exists():
        raise ValueError("not yet")


class RunsCode:
    """A value that leaves a file when it is unpickled, in whatever process."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return _leave, (self.mark,)


def _leave(mark: str) -> int:
    with Path(mark).open("a") as file:
        return file.write("!")


def give_code(mark: str) -> RunsCode:
    """Return a value that runs code when it is unpickled."""
    return RunsCode(mark)


@contextmanager
def released(go: Path) -> Iterator[Path]:
    """Have tasks that hold end with the test, whatever becomes of it."""
    try:
        yield go
    finally:
        go.touch()
