"""Memory: a whole service, web, workers and broker, when it has just started and after many tasks."""

import time

from benchmarks import accept, usage, wrk
from benchmarks import contestants as c
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import stage

TASKS, QUICK_TASKS = 200_000, 4_000
BURST = 5  # seconds of posting, after which all is written before the next
REST = 3  # seconds until a service is idle


def run(contestant: Contestant, quick: bool) -> Sample:
    """Measure, post until there have been enough tasks, measure again."""
    with stage(contestant) as place, place.service() as port:
        answered = wrk.post(port, connections=4, seconds=1, tag="warm").answered
        accept.wait_for_lines(place, answered)
        time.sleep(REST)
        idle, burst = usage.memory_mib(place.pids), 0
        while answered < (QUICK_TASKS if quick else TASKS):
            burst += 1
            answered += wrk.post(port, connections=8, seconds=1 if quick else BURST, tag=f"burst{burst}").answered
            found = accept.wait_for_lines(place, answered)
        time.sleep(REST)
        figures = {"idle MiB": idle, "later MiB": usage.memory_mib(place.pids), "tasks": answered}
    return Sample(figures=figures | {"growth": figures["later MiB"] / idle}, seen=str(found), holds=found.each_once)


MEMORY = Scenario(
    name="memory",
    title="memory of the whole service, at first and after 200,000 tasks",
    contestants=(c.NOTIFIER, c.CELERY),
    run=run,
    figures={"idle MiB": ",.0f", "later MiB": ",.0f", "growth": ".2f", "tasks": ",.0f"},
    goals=(
        Goal(figure="idle MiB", ours=c.NOTIFIER, peers=(c.CELERY,), at_most=1),
        Goal(figure="later MiB", ours=c.NOTIFIER, peers=(c.CELERY,), at_most=1),
        Goal(figure="growth", ours=c.NOTIFIER, at_most=1.05),
    ),
    rounds=1,
    quick_rounds=1,
)
