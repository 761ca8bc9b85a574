"""A value that tells on itself when it is unpickled."""

from typing import Any

RAN: list[bool] = []  # an entry for each time that the value's code ran in this process


def _note_run() -> None:
    RAN.append(True)


class Runs:
    """A value that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_note_run, ())
