"""Look at something once a second, in a thread of its own: no request waits for a disk or a database that hangs."""

import threading
import time
from collections.abc import Callable
from logging import getLogger

logger = getLogger(__name__)

LOOK = 1.0  # seconds between two looks


class Lookout:
    """Looks, from the first request on: a thread that was started earlier would be lost in a server that forks then."""

    def __init__(self, look: Callable[[], None]) -> None:
        """`look`: looks once, and keeps what it has seen. An error of its own is logged, and it is tried again."""
        self._look = look
        self.has_begun = False

    def begin(self) -> None:
        """Look from now on. Costs next to nothing once it does."""
        if not self.has_begun:
            self.has_begun = True
            threading.Thread(target=self._run, name="lookout", daemon=True).start()

    def _run(self) -> None:
        told = ""
        while True:
            try:
                self._look()
                told = ""
            except Exception as error:  # the thread must not end
                if told != (told := f"{type(error).__name__}: {' '.join(str(error).split())}"):
                    logger.warning("What the limits go by can't be read: %s", told)
            time.sleep(LOOK)
