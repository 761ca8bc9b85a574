"""Where a task runs: in the thread that leads, in the event loop, in the main thread, or in a process for itself."""

import contextvars
import resource
import time
from collections.abc import Callable

from django_q.conf import Conf

from durable_queue.conf import cluster_conf
from durable_queue.store.leases import Row, Settlement
from durable_queue.work.attempt import Attempt
from durable_queue.work.birth import Birth
from durable_queue.work.coroutine_threads import Pool
from durable_queue.work.coroutines import Coroutines
from durable_queue.work.crew import Crew, Member
from durable_queue.work.habits import QUICK, Habits
from durable_queue.work.holdings import Holdings
from durable_queue.work.keeper import Keeper
from durable_queue.work.progress import Progress
from durable_queue.work.stop import Stop
from durable_queue.work.surroundings import Surroundings
from durable_queue.work.titles import show_title
from durable_queue.work.watch import Watch


class Runner:
    """Runs a worker's tasks."""

    on_coroutine_end: Callable[[], None]  # called in the event loop's thread, once one is finished

    def __init__(  # noqa: PLR0913 - the parts of a worker
        self,
        holdings: Holdings,
        crew: Crew,
        watch: Watch,
        *,
        progress: Progress,
        stop: Stop,
        keeper: Keeper,
        birth: Birth,
        surroundings: Surroundings,
    ) -> None:
        self.has_run = 0  # how many tasks
        self._worker = str(holdings.me)
        self._holdings = holdings
        self._crew = crew
        self._watch = watch
        self._stop = stop
        self._keeper = keeper
        self._surroundings = surroundings
        self._alone = birth.alone
        self._habits = Habits()
        self._coroutines: Coroutines | None = None
        if birth.threads > 1:
            pool = Pool(birth.threads, crew.write_lock, surroundings)
            self._coroutines = Coroutines(cluster_conf.coroutines, birth.threads, progress, pool, self._finish_coroutine)
            watch.look_at_coroutines = self._coroutines.look

    @property
    def free_coroutines(self) -> int:
        """How many more coroutines may be started."""
        return self._coroutines.free if self._coroutines else 0

    def run(self, row: Row, member: Member) -> None:
        """Run a row's task in the calling thread, whose `member` this is, or have it run elsewhere."""
        attempt = Attempt(row, member.slot, self._worker, self._keeper, self._holdings.claiming)
        member.began = attempt.began
        try:
            # A context of its own: what a task sets in it, a time zone, a language, a precision, ends with the task.
            settlement = contextvars.Context().run(self._read_and_run, attempt, member)
        except BaseException as error:  # from around the task, or by a signal that came late
            settlement = attempt.settle_error(error)
        if settlement:
            self._finish(attempt, settlement)

    def _read_and_run(self, attempt: Attempt, member: Member) -> Settlement | None:
        return attempt.read() or self._run_where_it_belongs(attempt, member)

    def _run_where_it_belongs(self, attempt: Attempt, member: Member) -> Settlement | None:
        """Run a task in this thread, and return what became of it; or hand it over, and return None."""
        member.holder.task = attempt.task["name"]
        if self._coroutines is None:
            return self._run_here(attempt)
        if attempt.function.runs_alone:
            attempt.leave()
            self._holdings.run_alone(attempt.row)
            return None
        if attempt.function.is_coroutine:
            self._coroutines.start(attempt)
            return None
        return self._run_in_thread(attempt, member)

    def _run_here(self, attempt: Attempt) -> Settlement:
        """Run a task in the process's main thread, the only one that runs tasks."""
        if self._alone and self._holdings.wait_until_due() == 0.0:
            self._stop.tell_of_waiting_alone()  # this one is busy now, and what else is to run alone needs another
        show_title(f"processing {attempt.task['name']} '{attempt.task['path']}'")
        settlement = attempt.run()
        self._restore()
        self._surroundings.restore_signals()
        show_title("idle")
        if attempt.was_interrupted:
            self._stop.retire("a task was over its limit")
        return settlement

    def _run_in_thread(self, attempt: Attempt, member: Member) -> Settlement:
        """Run a task in one of several threads. Another leads on while it is slow."""
        habit = self._habits[attempt.habit_of]
        is_known = habit.is_quick and not habit.waits
        if not is_known:
            member.habit = habit
            processor = time.thread_time()
            if habit.waits:
                self._crew.pass_lead(member, member.began)
            else:
                self._watch.closely()
        settlement = attempt.run()
        self._restore()
        took = time.monotonic() - attempt.began
        if took < QUICK:
            habit.note_quick()
        elif not is_known:
            habit.note_slow(took, time.thread_time() - processor)
        else:
            habit.note_slow(took, took)
        return settlement

    def _restore(self) -> None:
        self._stop.end_if_closed()
        try:
            self._surroundings.restore()
        except OSError as error:
            self._stop.retire(f"its directory can't be restored: {error}")

    def _finish(self, attempt: Attempt, settlement: Settlement) -> None:
        self._holdings.finish(settlement, attempt.slot)
        self._count()

    def _finish_coroutine(self, attempt: Attempt, settlement: Settlement) -> None:
        self._stop.end_if_closed()
        if attempt.has_left_thread:
            self._stop.retire(f"what {attempt.task['name']!r} runs in a thread is over its limit, and can't be interrupted")
        self._finish(attempt, settlement)
        self.on_coroutine_end()

    def _count(self) -> None:
        self.has_run += 1
        if 0 < Conf.RECYCLE <= self.has_run:
            self._stop.retire("it has run as many tasks as `recycle` says")
        elif Conf.MAX_RSS and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >= Conf.MAX_RSS:
            self._stop.retire("it has reached `max_rss`")
