"""Clocks of other processes: set forth and back, whenever a test likes to."""

import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.support import environment, selection
from tests.support.processes import PROJECT


class Clock:
    """The wall clock of the processes with its environment."""

    def __init__(self, folder: Path, *, ahead: int = 0) -> None:
        """`folder`: where its file is kept. `ahead`: by how many seconds."""
        self._file = folder / "clock"
        self.set(ahead)
        self.env = {"LD_PRELOAD": str(_library()), "CLOCK_SHIFT": str(self._file)}
        ask = [sys.executable, "-c", "import time; print(time.time())"]
        told = subprocess.run(ask, env=self.env, capture_output=True, text=True, check=True).stdout
        assert abs(float(told) - time.time() - ahead) < 5

    def set(self, ahead: int) -> None:
        """Have it differ from this process's by so many seconds from now on."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(ahead.to_bytes(8, sys.byteorder, signed=True))


@cache
def _library() -> Path:
    library = Path(mkdtemp(dir=environment.FOLDER)) / "clock_shift.so"
    compiler = selection.installed("cc", "gcc", "libc6-dev")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, PROJECT / "tests" / "support" / "clock_shift.c"], check=True)
    return library
