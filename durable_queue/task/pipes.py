"""Pipes whose ends a task may close: one that closes descriptors that it doesn't own."""

import os


class WriteEnd:
    """The end of a pipe or FIFO that is written to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._file = _identity(descriptor)

    def write(self, content: bytes) -> None:
        """Write, if it is still the same pipe: by now the number may belong to a database file.

        Raises BrokenPipeError if it isn't, and OSError.
        """
        if not self.is_ours:
            raise BrokenPipeError(f"The descriptor {self._descriptor} was closed by other code")
        os.write(self._descriptor, content)

    def close(self) -> None:
        """Close it, if it is still the same pipe."""
        if self.is_ours:
            os.close(self._descriptor)

    @property
    def is_ours(self) -> bool:
        """Whether it is still the same pipe."""
        try:
            return _identity(self._descriptor) == self._file
        except OSError:
            return False


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
