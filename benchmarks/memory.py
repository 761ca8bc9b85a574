"""Memory: a whole service, web, workers and broker, when it has just started, when it has filled its caches, and later."""

import time

from benchmarks import accept, usage, wrk
from benchmarks import contestants as c
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import stage

TASKS, QUICK_TASKS = 200_000, 4_000
WARM, QUICK_WARM = 50_000, 2_000  # tasks after which each process has its statements, pages and largest batch
BURST = 5  # seconds of posting, after which all is written before the next
REST = 3  # seconds until a service is idle


def run(contestant: Contestant, quick: bool) -> Sample:
    """Measure, post until there have been enough tasks, measure again."""
    with stage(contestant) as place, place.service() as port:
        answered = wrk.post(port, connections=4, seconds=1, tag="warm").answered
        found = accept.wait_for_lines(place, answered)
        time.sleep(REST)
        used, burst = [usage.memory_mib(place.pids)], 0
        for tasks in (QUICK_WARM, QUICK_TASKS) if quick else (WARM, TASKS):
            while answered < tasks:
                burst += 1
                answered += wrk.post(port, connections=8, seconds=1 if quick else BURST, tag=f"burst{burst}").answered
                found = accept.wait_for_lines(place, answered)
            time.sleep(REST)
            used.append(usage.memory_mib(place.pids))
    idle, warm, later = used
    figures = {"idle MiB": idle, "warm MiB": warm, "later MiB": later, "tasks": answered, "growth": later / warm}
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


MEMORY = Scenario(
    name="memory",
    title="memory of the whole service, at first, after 50,000 tasks and after 200,000",
    contestants=(c.NOTIFIER, c.CELERY),
    run=run,
    figures={"idle MiB": ",.0f", "warm MiB": ",.0f", "later MiB": ",.0f", "growth": ".2f", "tasks": ",.0f"},
    goals=(
        Goal(figure="idle MiB", ours=c.NOTIFIER, peers=(c.CELERY,), at_most=1),
        Goal(figure="later MiB", ours=c.NOTIFIER, peers=(c.CELERY,), at_most=1),
        Goal(figure="growth", ours=c.NOTIFIER, at_most=1.02),
    ),
    rounds=1,
    quick_rounds=1,
)
