"""How many rows a worker claims at a time, and how long it waits when it finds none."""

import time

POLL = (0.2, 2.0)  # shortest and longest pause (seconds) between two looks at the table, when no hint came
SOON = 0.005  # the pause (seconds) after a hint that came too early; it grows from there
SLOW_AFTER = 0.5  # seconds that a worker keeps rows that it has not started while a slow task runs
SLOW_CLAIM = 8  # rows that a worker with threads takes at a time unless the last batch was quick: others may be idle
FEW = 16  # a batch is quick if one of so many tasks, or fewer, was slow
OTHERS_FIRST = 0.2  # seconds for which a worker that has its share of slow tasks leaves the others to others
LINGER = 0.02  # pause (seconds) that lets a batch grow
LINGER_FROM = 3  # rows: a batch of so many, or more, that was not full may grow for a moment before the next
LOADED = 4  # tasks in hand, from which on a worker lets others go first
YIELD = 0.0002  # seconds that it waits for each task in its hand
MOST_YIELDS = 40


class Pace:
    """One worker's."""

    def __init__(self, most: int, *, threads: int) -> None:
        """`most`: rows to claim at a time. `threads`: how many the worker has."""
        self.pause = POLL[0]  # seconds to wait for a hint
        self.last_claim = 0  # rows
        self.last_work = time.monotonic()  # when rows were found last
        self._most = most
        self._has_threads = threads > 1
        self._size = min(SLOW_CLAIM, most) if self._has_threads else most
        self._is_quick = not self._has_threads  # whether no task of the last batch was slow
        self._has_share_since = 0.0  # when it was found that the worker has its share; 0: it hasn't

    def room(self, *, threads: int, coroutines: int) -> int:
        """How many rows to claim, while so many threads are free, and so many coroutines may be started."""
        if not self._has_threads:
            return self._size
        return min(self._size, coroutines) if self._is_quick else min(self._size, coroutines, threads)

    def piles_up(self, load: int) -> bool:
        """Whether the worker, which has so many tasks in hand, is to look at its share before it claims more."""
        return self._has_threads and load >= SLOW_CLAIM and not self._is_quick

    def leaves_to_others(self, load: int, share: int) -> bool:
        """Whether it leaves the rows that are due to other workers: for a moment, once it has its share in hand."""
        if load < share:
            self._has_share_since = 0.0
            return False
        now = time.monotonic()
        if not self._has_share_since:
            self._has_share_since = now
        if now - self._has_share_since < OTHERS_FIRST:
            return True
        self._has_share_since = 0.0  # none of them has taken them
        return False

    def lets_grow(self, room: int) -> bool:
        """Whether to let the next batch grow for a moment."""
        return LINGER_FROM <= self.last_claim < room and not (self._has_threads and room <= SLOW_CLAIM)

    def note_slow(self, slow: int) -> None:
        """Note how many tasks of the last batch, all of them begun, were slow. An empty batch tells nothing."""
        if self.last_claim:
            self._is_quick = self.is_quick(slow, self.last_claim)
            if not self._is_quick:
                self._size = min(self._size, SLOW_CLAIM)

    def note_batch(self, *, seconds: float, returned: int) -> None:
        """Note the last batch: how long it took, and how many rows were given back unrun."""
        if returned:
            self._size = max(1, self.last_claim - returned)  # no more than was started in this time
        elif self._is_quick and seconds < SLOW_AFTER / 2:
            self._size = min(self._size * 2, self._most)

    def is_quick(self, slow: int, rows: int) -> bool:
        """Whether so many rows are a quick batch, of which so many were slow."""
        return not self._has_threads or slow * FEW <= rows

    def note_claim(self, rows: int, *, announced: int) -> None:
        """Note how many rows were found, and how many had been announced."""
        self.last_claim = rows
        if rows:
            self.pause, self.last_work = POLL[0], time.monotonic()
        elif announced:
            self.pause = SOON  # it isn't there yet

    def note_silence(self) -> None:
        """Note that no hint came in the pause: the next one is longer."""
        self.pause = min(self.pause * 1.5, POLL[1])


def yield_for(load: int) -> float:
    """For how many seconds a worker that has so many tasks in hand lets others go first; 0.0 if it doesn't."""
    return YIELD * min(load, MOST_YIELDS) if load >= LOADED else 0.0
