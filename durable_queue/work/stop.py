"""The wish to stop, as a worker hears it."""

import os
import signal


class Stop:
    """The wish to stop. SIGTERM notes it, and wakes the loop, which reads it between two tasks."""

    def __init__(self) -> None:
        """Set the handler."""
        self.noted = False
        self.wakes, end = os.pipe()  # becomes readable when any signal came
        for pipe in (self.wakes, end):
            os.set_blocking(pipe, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.noted = True
