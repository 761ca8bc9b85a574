"""Code in the middle of which no exception may be raised in a thread."""

from types import FrameType

# Modules that take locks in Python code: an exception between a lock and its `try` would leave the lock taken for ever.
DELICATE = frozenset({"logging", "importlib._bootstrap", "importlib._bootstrap_external"})


def is_delicate(frame: FrameType | None) -> bool:
    """Whether a thread whose innermost frame this is runs such code."""
    while frame:
        if frame.f_globals.get("__name__") in DELICATE:
            return True
        frame = frame.f_back
    return False
