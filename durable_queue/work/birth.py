"""What a supervisor tells its new worker."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Birth:
    """Its name, its queue and its way of working."""

    name: str
    queue: str
    supervisor: str  # a UUID
    supervisor_pid: int
    supervisor_wakes: int  # the descriptor of a pipe that wakes the supervisor
    restarts: int
    threads: int  # tasks that it runs at once; 1: in its main thread
    run_once: bool  # end when nothing is due any more
    alone: bool = False  # whether it serves the tasks that run alone: one at a time, and it ends when there are none
