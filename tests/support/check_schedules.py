"""Compare the rule of schedules with a walk along the clock, for random rules, zones and moments.

    python -m tests.support.check_schedules [N] [--seed SEED]

Prints each rule on which they disagree, and a last line with their number. The exit code is 1 if there is one.
"""

import argparse
import random
import sys

from durable_queue.schedule.rule import RuleError, next_after
from tests.support import schedule_walk
from tests.support.random_rules import Case, random_case

DAYS = 420  # looked at before the walk gives up: a year, and a month more


def disagreement(case: Case) -> str | None:
    """What the rule and the walk say, if they disagree."""
    walked = schedule_walk.first_after(case.rule, case.named, case.moment, DAYS)
    try:
        reckoned = next_after(case.rule, case.moment)
    except RuleError as error:
        return None if walked is None and "never comes" in str(error) else f"{case}: {walked} by the walk, but {error}"
    if reckoned == walked or (walked is None and (reckoned is None or (reckoned - case.moment).days >= DAYS)):
        return None
    return f"{case}: {walked} by the walk, {reckoned} by the rule"


def main() -> None:
    """Check N rules."""
    parser = argparse.ArgumentParser(prog="scripts/check-schedules", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("N", type=int, nargs="?", default=300, help="how many rules (300); 10000 take some minutes")
    parser.add_argument("--seed", type=int, default=None, help="the first of N seeds; a random one unless given")
    arguments = parser.parse_args()
    start = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    sys.stdout.write(f"Seeds {start} to {start + arguments.N - 1}\n")
    disagreements = 0
    for seed in range(start, start + arguments.N):
        if (difference := disagreement(random_case(seed))) is not None:
            disagreements += 1
            sys.stdout.write(f"Seed {seed}: {difference}\n")
    sys.stdout.write(f"{arguments.N} rules, {disagreements} disagree\n")
    sys.exit(1 if disagreements else 0)


if __name__ == "__main__":
    main()
