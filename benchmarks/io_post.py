"""POSTs of tasks that wait, as for a mail server: from the first POST to the last effect.

Everything runs before the clock does: two web processes, and Notifier's two workers. FastAPI waits in its web processes: 40
threads in each, or as many coroutines as there are. Notifier has its default settings.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks import contestants as c
from benchmarks import effects, posts, usage
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage
from tests.support.processes import wait_until

SECONDS = 0.1  # that a task waits
LIMIT = 60  # seconds for all of them
REST = 1.0  # seconds in which whoever has just started comes to rest

WORKERS = "durable_queue_worker"
NOTIFIER = replace(c.NOTIFIER, env={"DJANGO_SETTINGS_MODULE": "slow_settings"})
FASTAPI = replace(c.FASTAPI, web=tuple("slow_web:app" if word == "query:app" else word for word in c.FASTAPI.web))


def poster(job: str, count: int, quick_count: int) -> Callable[[Contestant, bool], Sample]:
    """What posts so many of one job."""

    def run(contestant: Contestant, quick: bool) -> Sample:
        wanted = quick_count if quick else count
        with stage(contestant) as place, place.web() as port, place.workers():
            be_ready(place)
            used = usage.cpu_seconds(place.pids)
            posted = posts.post(port, f"/slow/{job}/{SECONDS}/{{}}", count=wanted)
            found = effects.wait_for(place, wanted, limit=LIMIT)
            cost = 1e6 * (usage.cpu_seconds(place.pids) - used) / wanted
        figures = {
            "total s": found.last_end - posted.began,
            "answered s": posted.seconds,
            "CPU µs": cost,
            "busier %": 100 * found.largest_share,
        }
        return Sample(figures=figures, seen=str(found), holds=found.each_once and posted.answered == wanted)

    return run


def be_ready(place: Stage, workers: int = 2) -> None:
    """Return when Notifier's workers are there, and all is at rest."""
    if place.contestant.folder == "notifier":
        wait_until(lambda: place.count(WORKERS) == workers, what="the workers are there")
    time.sleep(REST)


FIGURES = {"total s": ".2f", "answered s": ".2f", "CPU µs": ",.0f", "busier %": ".0f"}

THREADS = Scenario(
    name="io-post-threads",
    title="400 POSTs of a task that waits 0.1 s in a thread, until all are done (2 x 40 threads: at least 0.5 s)",
    contestants=(NOTIFIER, FASTAPI),
    run=poster("wait", 400, 160),
    figures=FIGURES,
    goals=(Goal(figure="total s", ours=NOTIFIER, peers=(FASTAPI,), at_most=1.0),),
    rounds=5,
    paired=True,
)
COROUTINES = Scenario(
    name="io-post-coroutines",
    title="2,000 POSTs of a coroutine that waits 0.1 s, until all are done",
    contestants=(NOTIFIER, FASTAPI),
    run=poster("await", 2_000, 500),
    figures=FIGURES,
    goals=(Goal(figure="total s", ours=NOTIFIER, peers=(FASTAPI,), at_most=1.2),),
    rounds=5,
    paired=True,
)
