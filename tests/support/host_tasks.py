"""Tasks that tell where they run."""

import os
import socket
import time
from pathlib import Path


def note_host(notes: str, number: int, seconds: float) -> None:
    """Note, in a file that all hosts share, that this task has begun here; then wait."""
    with Path(notes).open("a") as file:
        file.write(f"{number} {socket.gethostname()} {os.getpid()}\n")
    time.sleep(seconds)
